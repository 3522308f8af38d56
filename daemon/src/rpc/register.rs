//! The method table.
//!
//! Owns which methods there are. `methods` has those of the service, `jobs` those of the jobs; here
//! are the two that need more than one part.

use std::sync::Arc;

use ingle_protocol::wire::status::{Shutdown, ShutdownReply, Status, StatusReply};
use jsonrpsee::core::RegisterMethodError;
use jsonrpsee::core::server::RpcModule;

use super::call::add;
use super::{jobs as job_methods, methods};
use ingle_jobs::Jobs;
use ingle_service::Service;

/// Registers all methods. `shutdown` is called with whether to cancel what is in flight.
///
/// # Errors
/// When two methods have one name, which the first test run shows.
pub fn all(
    service: Arc<Service>,
    jobs: &Jobs,
    shutdown: impl Fn(bool) + Send + Sync + 'static,
) -> Result<RpcModule<Arc<Service>>, RegisterMethodError> {
    let mut module = RpcModule::new(service);
    methods::add_all(&mut module)?;
    job_methods::add_all(&mut module, jobs)?;
    let jobs = jobs.clone();
    add::<Status, _, _>(&mut module, move |service, _, _| {
        let jobs = jobs.counts();
        async move { Ok(StatusReply { jobs, ..service.status() }) }
    })?;
    let shutdown = Arc::new(shutdown);
    add::<Shutdown, _, _>(&mut module, move |service, params, _| {
        let shutdown = Arc::clone(&shutdown);
        async move {
            let active = service.active_generations();
            shutdown(params.now);
            Ok(ShutdownReply { pid: std::process::id(), active })
        }
    })?;
    Ok(module)
}
