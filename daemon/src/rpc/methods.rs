//! The methods of the service: each a few lines between the wire and [`Service`].
//!
//! Owns which call of the service a method is. Names, parameters and results come from
//! `ingle_protocol::wire`.

use std::sync::Arc;

use ingle_protocol::error::{ErrorBody, ErrorCode};
use ingle_protocol::wire::Method;
use ingle_protocol::wire::embed::Embed;
use ingle_protocol::wire::generate::{Generate, GenerateParams, GenerateResult};
use ingle_protocol::wire::hello::{Hello, HelloParams, HelloReply};
use ingle_protocol::wire::metrics::Metrics;
use ingle_protocol::wire::models::{EstimateModel, ListModels, LoadModel, PullModel, UnloadModel};
use ingle_protocol::wire::status::Health;
use ingle_protocol::wire::tokens::{Detokenize, Tokenize};
use jsonrpsee::core::RegisterMethodError;
use jsonrpsee::core::server::RpcModule;

use super::call::{CallContext, add, context, forwarding, progress, send_event};
use ingle_service::Service;

/// Registers every method but `jobs.*`, `status` and `shutdown`.
///
/// # Errors
/// When two methods have one name.
pub(super) fn add_all(module: &mut RpcModule<Arc<Service>>) -> Result<(), RegisterMethodError> {
    add::<Hello, _, _>(module, |service, params, _| async move { hello(&service, &params) })?;
    add::<Health, _, _>(module, |service, _, _| async move { Ok(service.health()) })?;
    add::<Metrics, _, _>(
        module,
        |service, params, _| async move { Ok(service.metrics_reply(params)) },
    )?;
    add::<ListModels, _, _>(module, |service, _, _| async move { service.list_models().await })?;
    add::<Tokenize, _, _>(module, |service, params, call| async move {
        let context = context(&service, Tokenize::CLASS, None, &call);
        service.tokenize(params, &context).await
    })?;
    add::<Detokenize, _, _>(module, |service, params, call| async move {
        let context = context(&service, Detokenize::CLASS, None, &call);
        service.detokenize(params, &context).await
    })?;
    add::<Generate, _, _>(module, |service, params, call| async move {
        generate(&service, params, &call).await
    })?;
    add::<Embed, _, _>(module, |service, params, call| async move {
        let context = context(&service, Embed::CLASS, params.budget, &call);
        service.embed(params, &context).await
    })?;
    add::<LoadModel, _, _>(module, |service, params, call| async move {
        let context = context(&service, LoadModel::CLASS, None, &call);
        let (progress, forward) = progress(params.stream, &call.scope);
        let load = service.load_model(&params, progress, &context);
        forwarding(load, forward).await
    })?;
    add::<EstimateModel, _, _>(module, |service, params, call| async move {
        let context = context(&service, EstimateModel::CLASS, None, &call);
        service.estimate_model(&params, &context).await
    })?;
    add::<UnloadModel, _, _>(module, |service, params, call| async move {
        let context = context(&service, UnloadModel::CLASS, None, &call);
        service.unload_model(params.model.as_deref(), &context).await
    })?;
    add::<PullModel, _, _>(module, |service, params, call| async move {
        let context = context(&service, PullModel::CLASS, None, &call);
        let (progress, forward) = progress(params.stream, &call.scope);
        let pull = service.pull_model(&params, progress, &context);
        forwarding(pull, forward).await
    })?;
    Ok(())
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
    call: &CallContext,
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
