//! Which engine runs a model, out of those that can.
//!
//! Owns which formats each engine runs, and what a caller is told whose wish cannot be met. Knows
//! nothing of what is in the files.

use ingle_protocol::error::{ErrorBody, ErrorCode};
use ingle_protocol::wire::models::EngineKind;

use ingle_engine::engines::Engines;
use ingle_models::{ModelFormat, ModelSource};

/// Which engine a model is to run on.
#[derive(Debug, Clone, Copy)]
pub(super) struct EngineChoice {
    /// What the caller demands.
    pub(super) asked: Option<EngineKind>,
    /// What is taken if it can run the format.
    pub(super) wished: Option<EngineKind>,
}

impl EngineChoice {
    /// The engine.
    ///
    /// # Errors
    /// `MODEL_UNSUPPORTED` when no engine of this build can run the format, or the one asked for
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
        match self.asked {
            Some(asked) if !able.contains(&asked) => unsupported(
                format!("the engine `{asked}` cannot run the format {format}"),
                format!("Leave the engine out, or ask for {}.", names(able)),
            ),
            Some(asked) if !built_in.has(asked) => unsupported(
                format!("this daemon was built without the engine `{asked}`"),
                "Leave the engine out, or build the daemon with it.".to_owned(),
            ),
            Some(asked) => Ok(asked),
            None => match self.wished.filter(|wish| built().any(|engine| engine == *wish)) {
                Some(wished) => Ok(wished),
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

/// The engines that run a format, the best first, whether they are built in or not.
fn engines(format: ModelFormat) -> &'static [EngineKind] {
    match format {
        ModelFormat::Gguf => &[EngineKind::Gguf, EngineKind::Mlx],
        ModelFormat::Safetensors => &[EngineKind::Mlx],
        ModelFormat::Sim => &[EngineKind::Sim],
    }
}
