//! Resources: models and jobs that a host can read, attach and subscribe to.
//!
//! Owns their URIs and contents: JSON, as the RPC methods return it. `subscriptions` notifies of
//! changes.

use crate::limits;
use ingle_protocol::error::{ErrorBody, ErrorCode};
use ingle_protocol::wire::jobs::ListJobsParams;
use ingle_protocol::wire::models::ModelState;
use rmcp::ErrorData;
use rmcp::model::{ReadResourceResult, Resource, ResourceContents, ResourceTemplate};
use serde_json::{Value, json};

use super::context::HostContext;
use super::truncate::truncated;

const JSON: &str = "application/json";
const MODELS: &str = "ingle://models";
const JOBS: &str = "ingle://jobs";
/// The URI template of a model.
pub(super) const MODEL_TEMPLATE: &str = "ingle://models/{name}";
/// The URI template of a job.
pub(super) const JOB_TEMPLATE: &str = "ingle://jobs/{id}";

/// A resource that a URI names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum ResourceUri {
    /// All models.
    Models,
    /// The model of this name.
    Model(String),
    /// The newest jobs.
    Jobs,
    /// The job of this id.
    Job(String),
}

impl ResourceUri {
    /// Parses a URI; `None` for one that is not ours.
    pub(super) fn parse(uri: &str) -> Option<Self> {
        if uri == MODELS {
            return Some(Self::Models);
        }
        if uri == JOBS {
            return Some(Self::Jobs);
        }
        let of = |list: &str| {
            let name = decoded(uri.strip_prefix(list)?.strip_prefix('/')?)?;
            (!name.is_empty()).then_some(name)
        };
        of(MODELS).map(Self::Model).or_else(|| of(JOBS).map(Self::Job))
    }

    /// The URI.
    pub(super) fn to_uri(&self) -> String {
        match self {
            Self::Models => MODELS.to_owned(),
            Self::Model(name) => format!("{MODELS}/{}", encoded(name)),
            Self::Jobs => JOBS.to_owned(),
            Self::Job(id) => format!("{JOBS}/{}", encoded(id)),
        }
    }
}

/// Encodes a name as one segment of a URI: names of Hugging Face have `/`, `:` and `@`.
fn encoded(name: &str) -> String {
    let mut uri = String::with_capacity(name.len());
    for byte in name.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            uri.push(char::from(byte));
        } else {
            uri.push_str(&format!("%{byte:02X}"));
        }
    }
    uri
}

/// Decodes a segment, encoded or not; `None` for a `%` that begins no escape.
fn decoded(segment: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(segment.len());
    let mut rest = segment.as_bytes();
    while let [first, tail @ ..] = rest {
        if *first == b'%' {
            let digits = std::str::from_utf8(tail.get(..2)?).ok()?;
            bytes.push(u8::from_str_radix(digits, 16).ok()?);
            rest = tail.get(2..)?;
        } else {
            bytes.push(*first);
            rest = tail;
        }
    }
    String::from_utf8(bytes).ok()
}

/// The URI templates of models and jobs.
pub(super) fn template_list() -> Vec<ResourceTemplate> {
    vec![
        ResourceTemplate::new(MODEL_TEMPLATE, "model")
            .with_title("A model")
            .with_description("A model: its files, its size, and whether it is loaded.")
            .with_mime_type(JSON),
        ResourceTemplate::new(JOB_TEMPLATE, "job")
            .with_title("A job")
            .with_description("A job: its progress, its result, or its error.")
            .with_mime_type(JSON),
    ]
}

/// All resources: the two lists, the installed models and the newest jobs.
///
/// # Errors
/// Models that cannot be listed. With a broken job store, only the jobs are left out.
pub(super) async fn list(host: &HostContext) -> Result<Vec<Resource>, ErrorData> {
    let list = |resource: ResourceUri, name: &str, title: &str, description: &str| {
        Resource::new(resource.to_uri(), name)
            .with_title(title)
            .with_description(description)
            .with_mime_type(JSON)
    };
    let mut resources = vec![
        list(ResourceUri::Models, "models", "Models", "The models of this machine."),
        list(ResourceUri::Jobs, "jobs", "Jobs", "The newest jobs, without their results."),
    ];
    let models = host.service.list_models().await.map_err(|error| internal(&error))?.models;
    let installed = models.into_iter().filter(|model| model.state != ModelState::Available);
    resources.extend(installed.map(|model| {
        let state = match model.state {
            ModelState::Loaded => "loaded",
            ModelState::Loading => "loading",
            ModelState::Broken => "broken",
            ModelState::Quarantined => "quarantined",
            ModelState::OnDisk | ModelState::Available => "on disk",
        };
        let description = match model.description.as_str() {
            "" => state.to_owned(),
            description => format!("{state}; {description}"),
        };
        Resource::new(ResourceUri::Model(model.name.clone()).to_uri(), model.name)
            .with_description(description)
            .with_mime_type(JSON)
    }));
    if let Ok(listed) = host.jobs.list(ListJobsParams::default(), &host.simple_request()).await {
        resources.extend(listed.jobs.into_iter().map(|job| {
            let description = format!("{}, created at {}", job.kind, job.created_at);
            Resource::new(ResourceUri::Job(job.id.clone()).to_uri(), job.id)
                .with_description(description)
                .with_mime_type(JSON)
        }));
    }
    Ok(resources)
}

/// The contents of a resource.
///
/// # Errors
/// `resource not found` with the URI, and what reading the resource reports.
pub(super) async fn read(host: &HostContext, uri: &str) -> Result<ReadResourceResult, ErrorData> {
    let content = match ResourceUri::parse(uri) {
        None => Err(not_found(uri)),
        Some(resource) => content(host, &resource).await.map_err(|error| match error.code {
            ErrorCode::JobNotFound | ErrorCode::ModelNotFound => not_found(uri),
            _ => internal(&error),
        }),
    }?;
    let text = serde_json::to_string_pretty(&content).unwrap_or_default();
    if text.len() > limits::JOB_RESULT_BYTES {
        return Err(internal(&ErrorBody::answer_too_large()));
    }
    let contents = ResourceContents::text(text, uri).with_mime_type(JSON);
    Ok(ReadResourceResult::new(vec![contents]))
}

async fn content(host: &HostContext, resource: &ResourceUri) -> Result<Value, ErrorBody> {
    let request = host.simple_request();
    match resource {
        ResourceUri::Models => Ok(json!(host.service.list_models().await?)),
        ResourceUri::Model(name) => {
            let models = host.service.list_models().await?.models;
            let entry = models.into_iter().find(|model| model.name == *name);
            let entry = entry.ok_or_else(|| {
                let message = format!("unknown model `{}`", truncated(name));
                ErrorBody::new(ErrorCode::ModelNotFound, message)
            })?;
            let loaded = host.service.status().models;
            let loaded = loaded.into_iter().find(|model| model.name == *name);
            Ok(json!({ "model": entry, "loaded": loaded }))
        }
        ResourceUri::Jobs => Ok(json!(host.jobs.list(ListJobsParams::default(), &request).await?)),
        ResourceUri::Job(id) => Ok(json!(host.jobs.get(id, &request).await?)),
    }
}

/// MCP's error for an unknown URI.
pub(super) fn not_found(uri: &str) -> ErrorData {
    let uri = truncated(uri);
    let message = format!(
        "unknown resource `{uri}`; the resources are {MODELS}, {MODEL_TEMPLATE}, {JOBS} and \
         {JOB_TEMPLATE}"
    );
    ErrorData::resource_not_found(message, Some(json!({ "uri": uri })))
}

/// An error of the service as a protocol error, with all of its data.
fn internal(error: &ErrorBody) -> ErrorData {
    ErrorData::internal_error(
        format!("{} {}", error.message, error.remediation()),
        Some(error.rpc_data()),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn resource_uris_round_trip() {
        for (resource, uri) in [
            (ResourceUri::Models, "ingle://models"),
            (ResourceUri::Model("smollm2".to_owned()), "ingle://models/smollm2"),
            (ResourceUri::Model("a/b:Q4@é".to_owned()), "ingle://models/a%2Fb%3AQ4%40%C3%A9"),
            (ResourceUri::Jobs, "ingle://jobs"),
            (ResourceUri::Job("j-1".to_owned()), "ingle://jobs/j-1"),
        ] {
            assert_eq!(resource.to_uri(), uri);
            assert_eq!(ResourceUri::parse(uri), Some(resource));
        }
        let long = not_found(&format!("ingle://models/{}", "x".repeat(100_000)));
        assert!(serde_json::to_string(&long).unwrap().len() < 1_000, "{long:?}");
        // The name without escapes, as a user would write it.
        assert_eq!(
            ResourceUri::parse("ingle://models/a/b"),
            Some(ResourceUri::Model("a/b".to_owned()))
        );
        for foreign in [
            "",
            "ingle://",
            "ingle://models/",
            "ingle://modelsx",
            "file:///etc/passwd",
            "ingle://models/%4",
            "ingle://jobs/%ff",
        ] {
            assert_eq!(ResourceUri::parse(foreign), None, "{foreign}");
        }
    }
}
