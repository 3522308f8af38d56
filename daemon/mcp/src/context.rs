//! Host context: the service as one host sees it.
//!
//! Owns what tools, resources, completions and subscriptions share: service, jobs, settings, the
//! host's timeout, its cancel tokens and its permits. Does not know MCP's methods.

use std::sync::Arc;
use std::time::Instant;

use ingle_jobs::Jobs;
use ingle_protocol::deadline::Budget;
use ingle_protocol::error::ErrorBody;
use ingle_protocol::timeouts::Class;
use ingle_service::Service;
use ingle_service::request::RequestContext;
use tokio::sync::{Semaphore, SemaphorePermit};
use tokio_util::sync::CancellationToken;

use crate::host_timeout::HostTimeout;
use crate::limits;
use crate::settings::McpSettings;

/// One host's view of the service. Clones share its permits and tokens.
#[derive(Debug, Clone)]
pub struct HostContext {
    pub(crate) service: Arc<Service>,
    pub(crate) jobs: Jobs,
    pub(crate) settings: McpSettings,
    pub(crate) timeout: HostTimeout,
    /// Cancelled when the host has closed both directions of its connection.
    pub(crate) disconnected: CancellationToken,
    /// Cancelled when the host sends nothing more. Its requests are still answered.
    pub(crate) input_ended: CancellationToken,
    /// A permit per request that the host may have in flight.
    in_flight: Arc<Semaphore>,
}

impl HostContext {
    /// The context of one host. `input_ended` is cancelled when the host sends nothing more,
    /// `disconnected` when it has closed its connection.
    #[must_use]
    pub fn new(
        service: Arc<Service>,
        jobs: Jobs,
        settings: McpSettings,
        timeout: HostTimeout,
        input_ended: CancellationToken,
        disconnected: CancellationToken,
    ) -> Self {
        let in_flight = Arc::new(Semaphore::new(limits::IN_FLIGHT_PER_CONNECTION));
        Self { service, jobs, settings, timeout, disconnected, input_ended, in_flight }
    }

    /// A permit for one request in flight.
    ///
    /// # Errors
    /// `OVERLOADED` if the host has no permit left.
    pub(crate) fn permit(&self) -> Result<SemaphorePermit<'_>, ErrorBody> {
        self.in_flight.try_acquire().map_err(|_| {
            ErrorBody::overloaded(format!(
                "the host has {} requests in flight, which is the limit",
                limits::IN_FLIGHT_PER_CONNECTION
            ))
        })
    }

    /// The service's context for the request `id`. The end of the host's connection cancels it.
    pub(crate) fn request(&self, id: &str, class: Class, budget: Option<Budget>) -> RequestContext {
        let cancel = self.disconnected.child_token();
        let timeouts = self.service.work_timeouts();
        RequestContext::new(id.to_owned(), class, timeouts, budget, cancel, Instant::now())
    }

    /// The same for a simple request with a new id.
    pub(crate) fn simple_request(&self) -> RequestContext {
        self.request(&self.service.next_request_id(), Class::Simple, None)
    }
}
