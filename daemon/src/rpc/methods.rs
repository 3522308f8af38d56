//! The methods: each a few lines between the wire and the service.
//!
//! Owns the method table. Names, parameters and results come from `ingle_protocol::wire`.

use std::sync::Arc;
use std::time::Instant;

use crate::limits;
use ingle_protocol::deadline::Budget;
use ingle_protocol::error::{ErrorBody, ErrorCode};
use ingle_protocol::timeouts::Class;
use ingle_protocol::wire::Method;
use ingle_protocol::wire::embed::Embed;
use ingle_protocol::wire::extensions::{EVENT, EventParams};
use ingle_protocol::wire::generate::{Generate, GenerateParams, GenerateResult};
use ingle_protocol::wire::hello::{Hello, HelloParams, HelloReply};
use ingle_protocol::wire::metrics::Metrics;
use ingle_protocol::wire::models::{EstimateModel, ListModels, LoadModel, PullModel, UnloadModel};
use ingle_protocol::wire::status::{Health, Shutdown, ShutdownReply, Status, StatusReply};
use ingle_protocol::wire::tokens::{Detokenize, Tokenize};
use jsonrpsee::core::RegisterMethodError;
use jsonrpsee::core::server::RpcModule;
use serde::Serialize;
use tokio::sync::mpsc;

use super::dispatch::{CallScope, error_object};
use ingle_jobs::Jobs;
use ingle_service::Service;
use ingle_service::request::{RequestContext, named};

/// All methods over one service. `shutdown` is called with whether to end at once.
///
/// # Errors
/// When two methods have one name: a bug that the first test run shows.
pub fn table(
    service: Arc<Service>,
    jobs: Jobs,
    shutdown: impl Fn(bool) + Send + Sync + 'static,
) -> Result<RpcModule<Arc<Service>>, RegisterMethodError> {
    let mut module = RpcModule::new(service);
    add::<Hello, _, _>(&mut module, |service, params, _| async move { hello(&service, &params) })?;
    add::<Health, _, _>(&mut module, |service, _, _| async move { Ok(service.health()) })?;
    let all_jobs = jobs.clone();
    add::<Status, _, _>(&mut module, move |service, _, _| {
        let jobs = all_jobs.counts();
        async move { Ok(StatusReply { jobs, ..service.status() }) }
    })?;
    add::<Metrics, _, _>(&mut module, |service, params, _| async move {
        Ok(service.metrics_reply(params))
    })?;
    super::jobs::add_all(&mut module, &jobs)?;
    add::<ListModels, _, _>(
        &mut module,
        |service, _, _| async move { service.list_models().await },
    )?;
    add::<Tokenize, _, _>(&mut module, |service, params, call| async move {
        let context = context(&service, Tokenize::CLASS, None, &call);
        service.tokenize(params, &context).await
    })?;
    add::<Detokenize, _, _>(&mut module, |service, params, call| async move {
        let context = context(&service, Detokenize::CLASS, None, &call);
        service.detokenize(params, &context).await
    })?;
    add::<Generate, _, _>(&mut module, |service, params, call| async move {
        generate(&service, params, &call).await
    })?;
    add::<Embed, _, _>(&mut module, |service, params, call| async move {
        let context = context(&service, Embed::CLASS, params.budget, &call);
        service.embed(params, &context).await
    })?;
    add::<LoadModel, _, _>(&mut module, |service, params, call| async move {
        let context = context(&service, LoadModel::CLASS, None, &call);
        let (progress, forward) = progress(params.stream, &call.scope);
        let load = service.load_model(&params, progress, &context);
        first(load, forward).await
    })?;
    add::<EstimateModel, _, _>(&mut module, |service, params, call| async move {
        let context = context(&service, EstimateModel::CLASS, None, &call);
        service.estimate_model(&params, &context).await
    })?;
    add::<UnloadModel, _, _>(&mut module, |service, params, call| async move {
        let context = context(&service, UnloadModel::CLASS, None, &call);
        service.unload_model(params.model.as_deref(), &context).await
    })?;
    add::<PullModel, _, _>(&mut module, |service, params, call| async move {
        let context = context(&service, PullModel::CLASS, None, &call);
        let (progress, forward) = progress(params.stream, &call.scope);
        let pull = service.pull_model(&params, progress, &context);
        first(pull, forward).await
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

/// One call: where it came from, and its name in logs and errors.
pub(super) struct Call {
    pub(super) scope: CallScope,
    pub(super) request_id: String,
}

/// Registers one method: reads its parameters, calls it, and wraps its error, which names the
/// request.
pub(super) fn add<M, F, Fut>(
    module: &mut RpcModule<Arc<Service>>,
    call: F,
) -> Result<(), RegisterMethodError>
where
    M: Method,
    F: Fn(Arc<Service>, M::Params, Call) -> Fut + Clone + Send + Sync + 'static,
    Fut: Future<Output = Result<M::Output, ErrorBody>> + Send,
{
    module.register_async_method(M::NAME, move |params, service, extensions| {
        let call = call.clone();
        async move {
            let id = service.next_request_id();
            let scope = extensions.get::<CallScope>().cloned();
            let outcome = match (read_params::<M>(params.as_str()), scope) {
                (Ok(params), Some(scope)) => {
                    let this = Call { scope, request_id: id.clone() };
                    call(Arc::clone(&service), params, this).await
                }
                (Err(error), _) => Err(error),
                (_, None) => {
                    Err(ErrorBody::new(ErrorCode::Internal, "the call came without its scope"))
                }
            };
            outcome.map_err(|error| error_object(&named(error, &id)))
        }
    })?;
    Ok(())
}

fn read_params<M: Method>(params: Option<&str>) -> Result<M::Params, ErrorBody> {
    // Absent parameters and an empty list both mean "none".
    let text = params.map(str::trim).filter(|text| !matches!(*text, "" | "null" | "[]"));
    serde_json::from_str(text.unwrap_or("{}")).map_err(|error| {
        ErrorBody::new(ErrorCode::InvalidParams, format!("`params` of `{}`: {error}", M::NAME))
    })
}

pub(super) fn context(
    service: &Service,
    class: Class,
    budget: Option<Budget>,
    call: &Call,
) -> RequestContext {
    let timeouts = service.work_timeouts();
    let budget = match (budget, call.scope.remaining_ms) {
        (budget, None) => budget,
        (None, remaining_ms) => Some(Budget { work_ms: None, remaining_ms }),
        // The shim's limit heeds the caller's budget already.
        (Some(budget), remaining_ms) => Some(Budget { remaining_ms, ..budget }),
    };
    let cancel = call.scope.cancel.clone();
    RequestContext::new(call.request_id.clone(), class, timeouts, budget, cancel, Instant::now())
}

fn hello(service: &Service, params: &HelloParams) -> Result<HelloReply, ErrorBody> {
    if params.protocol != ingle_protocol::PROTOCOL_VERSION {
        return Err(ErrorBody::new(
            ErrorCode::VersionSkew,
            format!(
                "this daemon (build {}) speaks protocol {}, and the caller (build {}) speaks {}",
                ingle_protocol::BUILD,
                ingle_protocol::PROTOCOL_VERSION,
                params.build,
                params.protocol
            ),
        ));
    }
    Ok(HelloReply {
        protocol: ingle_protocol::PROTOCOL_VERSION,
        build: ingle_protocol::BUILD.to_owned(),
        pid: std::process::id(),
        timeouts: service.work_timeouts().clone(),
    })
}

async fn generate(
    service: &Service,
    params: GenerateParams,
    call: &Call,
) -> Result<GenerateResult, ErrorBody> {
    let context = context(service, params.class(), params.budget, call);
    let stream = params.stream;
    let mut generation = service.generate(params, context).await?;
    if stream {
        while let Some(event) = generation.event().await {
            send_event(&call.scope, event).await?;
        }
    }
    let (rest, result) = generation.finish().await?;
    for rest in rest {
        send_event(&call.scope, rest).await?;
    }
    Ok(result)
}

/// Sends one event of a call to its connection; waits while the connection has no room.
async fn send_event<E: Serialize>(scope: &CallScope, event: E) -> Result<(), ErrorBody> {
    #[derive(Serialize)]
    struct Frame<E> {
        jsonrpc: &'static str,
        method: &'static str,
        params: EventParams<E>,
    }
    let params = EventParams { id: scope.id.clone(), event };
    let frame = Frame { jsonrpc: "2.0", method: EVENT, params };
    let frame = serde_json::value::to_raw_value(&frame)
        .map_err(|error| ErrorBody::new(ErrorCode::Internal, error.to_string()))?;
    scope
        .events
        .send(frame)
        .await
        .map_err(|_| ErrorBody::new(ErrorCode::Cancelled, "the connection has closed"))
}

/// A sender for progress, and the future that forwards it to the connection until it is dropped.
pub(super) fn progress<E: Serialize>(
    wanted: bool,
    scope: &CallScope,
) -> (mpsc::Sender<E>, impl Future<Output = ()>) {
    let (sender, mut receiver) = mpsc::channel(limits::PROGRESS_EVENTS);
    let forward = async move {
        while let Some(event) = receiver.recv().await {
            if wanted && send_event(scope, event).await.is_err() {
                return;
            }
        }
    };
    (sender, forward)
}

/// The outcome of `work`, while `forward` runs beside it.
pub(super) async fn first<T>(
    work: impl Future<Output = T>,
    forward: impl Future<Output = ()>,
) -> T {
    let mut forward = std::pin::pin!(forward);
    let mut work = std::pin::pin!(work);
    tokio::select! {
        biased;
        () = &mut forward => work.await,
        outcome = &mut work => outcome,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn absent_parameters_are_none_and_unknown_ones_are_named() {
        for params in [None, Some("null"), Some("[]"), Some("{}")] {
            read_params::<Health>(params).unwrap();
        }
        let error = read_params::<Generate>(Some(r#"{"promt": "x"}"#)).unwrap_err();
        assert!(error.message.contains("promt"), "{error}");
    }
}
