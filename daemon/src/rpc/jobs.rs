//! The methods `jobs.*`: each a few lines between the wire and [`Jobs`].

use std::sync::Arc;

use ingle_protocol::error::ErrorBody;
use ingle_protocol::wire::Method;
use ingle_protocol::wire::jobs::{CancelJob, CreateJob, DeleteJobs, GetJob, ListJobs, WaitJob};
use jsonrpsee::core::RegisterMethodError;
use jsonrpsee::core::server::RpcModule;

use super::call::{add, context, forwarding, progress};
use ingle_jobs::Jobs;
use ingle_service::Service;
use ingle_service::request::RequestContext;

/// Registers these methods.
///
/// # Errors
/// When two methods have one name.
pub(super) fn add_all(
    module: &mut RpcModule<Arc<Service>>,
    jobs: &Jobs,
) -> Result<(), RegisterMethodError> {
    add_one::<CreateJob, _, _>(module, jobs, |jobs, params, context| async move {
        jobs.create(params, &context).await
    })?;
    add_one::<GetJob, _, _>(module, jobs, |jobs, params, context| async move {
        jobs.get(&params.id, &context).await
    })?;
    add_one::<ListJobs, _, _>(module, jobs, |jobs, params, context| async move {
        jobs.list(params, &context).await
    })?;
    add_one::<CancelJob, _, _>(module, jobs, |jobs, params, context| async move {
        jobs.cancel(&params.id, &context).await
    })?;
    add_one::<DeleteJobs, _, _>(module, jobs, |jobs, params, context| async move {
        jobs.delete(params, &context).await
    })?;
    let jobs = jobs.clone();
    add::<WaitJob, _, _>(module, move |service, params, call| {
        let jobs = jobs.clone();
        async move {
            let context = context(&service, WaitJob::CLASS, params.budget, &call);
            let (events, forward) = progress(params.stream, &call.scope);
            forwarding(jobs.wait(&params, events, &context), forward).await
        }
    })
}

/// Registers a method that needs the jobs and a context of its class.
fn add_one<M, F, Fut>(
    module: &mut RpcModule<Arc<Service>>,
    jobs: &Jobs,
    call: F,
) -> Result<(), RegisterMethodError>
where
    M: Method,
    F: Fn(Jobs, M::Params, RequestContext) -> Fut + Clone + Send + Sync + 'static,
    Fut: Future<Output = Result<M::Output, ErrorBody>> + Send,
{
    let jobs = jobs.clone();
    add::<M, _, _>(module, move |service, params, this| {
        call(jobs.clone(), params, context(&service, M::CLASS, None, &this))
    })
}
