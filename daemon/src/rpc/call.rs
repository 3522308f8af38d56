//! One call of a method, from its parameters to its reply.
//!
//! Owns what all methods share: reading parameters, the request id and span, the context, events on
//! their way to the connection. Does not know the methods.

use std::sync::Arc;
use std::time::Instant;

use crate::limits;
use ingle_protocol::deadline::Budget;
use ingle_protocol::error::{ErrorBody, ErrorCode};
use ingle_protocol::timeouts::Class;
use ingle_protocol::wire::Method;
use ingle_protocol::wire::extensions::{EVENT, EventParams};
use jsonrpsee::core::RegisterMethodError;
use jsonrpsee::core::server::RpcModule;
use serde::Serialize;
use tokio::sync::mpsc;
use tracing::Instrument;

use super::dispatch::{CallScope, error_object};
use ingle_service::Service;
use ingle_service::request::{RequestContext, named, request_span};

/// One call of a method: its scope and its request id.
pub(super) struct CallContext {
    pub(super) scope: CallScope,
    pub(super) request_id: String,
}

/// Registers one method: reads its parameters, calls it, and puts the request id into its error.
///
/// Everything the method does is in the span of its request.
pub(super) fn add<M, F, Fut>(
    module: &mut RpcModule<Arc<Service>>,
    call: F,
) -> Result<(), RegisterMethodError>
where
    M: Method,
    F: Fn(Arc<Service>, M::Params, CallContext) -> Fut + Clone + Send + Sync + 'static,
    Fut: Future<Output = Result<M::Output, ErrorBody>> + Send,
{
    module.register_async_method(M::NAME, move |params, service, extensions| {
        let call = call.clone();
        let id = service.next_request_id();
        let span = request_span(&id, M::NAME);
        let answer = async move {
            let scope = extensions.get::<CallScope>().cloned();
            let outcome = match (read_params::<M>(params.as_str()), scope) {
                (Ok(params), Some(scope)) => {
                    let this = CallContext { scope, request_id: id.clone() };
                    call(Arc::clone(&service), params, this).await
                }
                (Err(error), _) => Err(error),
                (_, None) => {
                    Err(ErrorBody::new(ErrorCode::Internal, "the call came without its scope"))
                }
            };
            outcome.map_err(|error| error_object(&named(error, &id)))
        };
        answer.instrument(span)
    })?;
    Ok(())
}

fn read_params<M: Method>(params: Option<&str>) -> Result<M::Params, ErrorBody> {
    // Absent parameters and an empty list both mean none.
    let text = params.map(str::trim).filter(|text| !matches!(*text, "" | "null" | "[]"));
    serde_json::from_str(text.unwrap_or("{}")).map_err(|error| {
        ErrorBody::new(ErrorCode::InvalidParams, format!("`params` of `{}`: {error}", M::NAME))
    })
}

/// The context of a call: its deadline, and the cancel token of its scope.
pub(super) fn context(
    service: &Service,
    class: Class,
    budget: Option<Budget>,
    call: &CallContext,
) -> RequestContext {
    let timeouts = service.work_timeouts();
    let budget = match (budget, call.scope.remaining_ms) {
        (budget, None) => budget,
        (None, remaining_ms) => Some(Budget { work_ms: None, remaining_ms }),
        // The shim's limit includes the client's budget already.
        (Some(budget), remaining_ms) => Some(Budget { remaining_ms, ..budget }),
    };
    let cancel = call.scope.cancel.clone();
    RequestContext::new(call.request_id.clone(), class, timeouts, budget, cancel, Instant::now())
}

/// Sends one event of a call to its connection, and waits while that cannot take more.
pub(super) async fn send_event<E: Serialize>(scope: &CallScope, event: E) -> Result<(), ErrorBody> {
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

/// A sender for progress events, and the future that forwards them until the sender is dropped.
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

/// The outcome of `work`, during which `forward` runs.
pub(super) async fn forwarding<T>(
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
    use ingle_protocol::wire::generate::Generate;
    use ingle_protocol::wire::status::Health;

    #[test]
    fn unknown_parameters_are_refused_by_name() {
        for params in [None, Some("null"), Some("[]"), Some("{}")] {
            read_params::<Health>(params).unwrap();
        }
        let error = read_params::<Generate>(Some(r#"{"promt": "x"}"#)).unwrap_err();
        assert!(error.message.contains("promt"), "{error}");
    }
}
