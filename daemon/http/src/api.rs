//! State of the API that all handlers share.

use std::sync::Arc;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use axum::body::Bytes;
use axum::extract::FromRef;
use ingle_protocol::timeouts::Class;
use ingle_service::Service;
use ingle_service::request::RequestContext;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::body::BodyBudget;
use crate::limits;
use crate::model_list::ModelListCache;
use crate::openapi;

/// State that all handlers share.
#[derive(Debug)]
pub struct Api {
    pub(crate) service: Arc<Service>,
    pub(crate) model_list: ModelListCache,
    /// Streams that have not ended.
    pub(crate) tracker: TaskTracker,
    /// The OpenAPI document.
    pub(crate) document: Bytes,
    /// Memory for request bodies.
    body_budget: BodyBudget,
}

impl Api {
    /// The API over a service. `tracker` counts its streams.
    #[must_use]
    pub fn new(service: Arc<Service>, tracker: TaskTracker) -> Self {
        let document = openapi::describe(service.requires_http_token());
        let body_budget = BodyBudget::new(limits::HTTP_BODIES_BYTES);
        Self { service, model_list: ModelListCache::default(), tracker, document, body_budget }
    }

    /// The context of the request `id`, accepted now. Over HTTP a client cannot request less time
    /// than its class has.
    pub(crate) fn context(
        &self,
        id: &str,
        class: Class,
        cancel: CancellationToken,
    ) -> RequestContext {
        let timeouts = self.service.work_timeouts();
        RequestContext::new(id.to_owned(), class, timeouts, None, cancel, Instant::now())
    }
}

impl FromRef<Arc<Api>> for BodyBudget {
    fn from_ref(api: &Arc<Api>) -> Self {
        api.body_budget.clone()
    }
}

/// Seconds since 1970.
pub(crate) fn unix_s() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

/// The build, which OpenAI calls the system fingerprint.
pub(crate) fn fingerprint() -> String {
    format!("ingle-{}", ingle_protocol::BUILD)
}
