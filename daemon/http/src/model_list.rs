//! Cache of the model list.
//!
//! Scanning all folders takes milliseconds, and editors request the list often.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use ingle_protocol::error::{ErrorBody, ErrorCode};
use ingle_protocol::wire::models::{ModelEntry, ModelState};
use ingle_service::Service;
use tokio::sync::Mutex;
use tokio::time::Instant;

use crate::limits;
use crate::types::models::{Model, ModelList};

/// The last model list. Its lock is held while a new list is made, so that concurrent requests
/// share one scan.
#[derive(Debug, Default)]
pub(crate) struct ModelListCache(Mutex<Option<(Instant, Arc<ModelList>)>>);

impl ModelListCache {
    /// The installed models, at most [`limits::HTTP_MODELS_MS`] old.
    ///
    /// # Errors
    /// A models folder that cannot be read.
    pub(crate) async fn get(&self, service: &Service) -> Result<Arc<ModelList>, ErrorBody> {
        let mut last = self.0.lock().await;
        if let Some((at, list)) = &*last
            && at.elapsed() < Duration::from_millis(limits::HTTP_MODELS_MS)
        {
            return Ok(Arc::clone(list));
        }
        let list = service.list_models().await?;
        let installed = list.models.into_iter().filter(|entry| {
            matches!(entry.state, ModelState::OnDisk | ModelState::Loading | ModelState::Loaded)
        });
        let installed: Vec<ModelEntry> = installed.collect();
        let data = tokio::task::spawn_blocking(move || installed.into_iter().map(model).collect());
        let data =
            data.await.map_err(|error| ErrorBody::new(ErrorCode::Internal, error.to_string()))?;
        let list = Arc::new(ModelList { object: "list", data });
        *last = Some((Instant::now(), Arc::clone(&list)));
        Ok(list)
    }
}

fn model(entry: ModelEntry) -> Model {
    let written = entry.path.as_deref().map(Path::new).and_then(|path| path.metadata().ok());
    let written = written.and_then(|metadata| metadata.modified().ok());
    let since = written.and_then(|at| at.duration_since(SystemTime::UNIX_EPOCH).ok());
    Model {
        id: entry.name,
        object: "model",
        created: since.map_or(0, |since| since.as_secs()),
        owned_by: entry.source,
    }
}
