//! The choice of the engine that runs a model.
//!
//! Owns which formats each engine runs, and the error when a request's engine cannot run a model.
//! Does not know the contents of the files.

use ingle_protocol::error::{ErrorBody, ErrorCode};
use ingle_protocol::wire::models::EngineKind;

use ingle_engine::engines::Engines;
use ingle_models::{ModelFormat, ModelSource};

/// The request for an engine.
#[derive(Debug, Clone, Copy)]
pub(super) struct EngineChoice {
    /// The engine that the request names.
    pub(super) required: Option<EngineKind>,
    /// The engine to use if it can run the format.
    pub(super) preferred: Option<EngineKind>,
}

impl EngineChoice {
    /// The engine for a model's format.
    ///
    /// # Errors
    /// `MODEL_UNSUPPORTED` when no engine of this build can run the format, or the required one
    /// cannot.
    pub(super) fn of(
        self,
        source: &ModelSource,
        built_in: &Engines,
    ) -> Result<EngineKind, ErrorBody> {
        let able = engines(source.format);
        let built = || able.iter().copied().filter(|&engine| built_in.has(engine));
        let unsupported = |problem: String, next: String| {
            let message = format!("{}: {problem}", source.path.display());
            Err(ErrorBody::new(ErrorCode::ModelUnsupported, message)
                .with_details(serde_json::json!({ "file": source.path }))
                .with_remediation(next))
        };
        let names = |engines: &[EngineKind]| {
            engines.iter().map(|engine| engine.as_str()).collect::<Vec<_>>().join(" or ")
        };
        let format = source.format.as_str();
        match self.required {
            Some(required) if !able.contains(&required) => unsupported(
                format!("the engine `{required}` cannot run the format {format}"),
                format!("Leave the engine out, or name {}.", names(able)),
            ),
            Some(required) if !built_in.has(required) => unsupported(
                format!("this daemon was built without the engine `{required}`"),
                "Leave the engine out, or build the daemon with it.".to_owned(),
            ),
            Some(required) => Ok(required),
            None => match self
                .preferred
                .filter(|preferred| built().any(|engine| engine == *preferred))
            {
                Some(preferred) => Ok(preferred),
                None => match built().next() {
                    Some(engine) => Ok(engine),
                    None => unsupported(
                        format!("this daemon was built without an engine for the format {format}"),
                        format!("Build the daemon with {}.", names(able)),
                    ),
                },
            },
        }
    }
}

/// The engines that can run a format, the best first, built in or not.
fn engines(format: ModelFormat) -> &'static [EngineKind] {
    match format {
        ModelFormat::Gguf => &[EngineKind::Gguf, EngineKind::Mlx],
        ModelFormat::Safetensors => &[EngineKind::Mlx],
        ModelFormat::Sim => &[EngineKind::Sim],
    }
}
