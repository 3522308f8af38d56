//! Models and jobs as resources that a host can read, attach and follow.
//!
//! Owns their addresses and what is read there: JSON, as the RPC methods give it. What changes is
//! told by `news`.

use crate::limits;
use ingle_protocol::error::{ErrorBody, ErrorCode};
use ingle_protocol::timeouts::Class;
use ingle_protocol::wire::jobs::ListJobsParams;
use ingle_protocol::wire::models::ModelState;
use rmcp::ErrorData;
use rmcp::model::{ReadResourceResult, Resource, ResourceContents, ResourceTemplate};
use serde_json::{Value, json};

use super::brief::brief;
use super::session::Session;

const JSON: &str = "application/json";
const MODELS: &str = "ingle://models";
const JOBS: &str = "ingle://jobs";
/// The template of one model's address.
pub(super) const MODEL_TEMPLATE: &str = "ingle://models/{name}";
/// The template of one job's address.
pub(super) const JOB_TEMPLATE: &str = "ingle://jobs/{id}";

/// What an address stands for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Place {
    /// All models.
    Models,
    /// The model of that name.
    Model(String),
    /// The newest jobs.
    Jobs,
    /// The job of that id.
    Job(String),
}

impl Place {
    /// Reads an address; `None` for one that is not ours.
    pub(super) fn read(uri: &str) -> Option<Self> {
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

    /// The address.
    pub(super) fn uri(&self) -> String {
        match self {
            Self::Models => MODELS.to_owned(),
            Self::Model(name) => format!("{MODELS}/{}", encoded(name)),
            Self::Jobs => JOBS.to_owned(),
            Self::Job(id) => format!("{JOBS}/{}", encoded(id)),
        }
    }
}

/// A name as one segment of an address: names of Hugging Face's have `/`, `:` and `@`.
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

/// The reverse, for names that were not encoded too; `None` for a `%` that means nothing.
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

/// The templates of addresses that are not listed one by one.
pub(super) fn template_list() -> Vec<ResourceTemplate> {
    vec![
        ResourceTemplate::new(MODEL_TEMPLATE, "model")
            .with_title("A model")
            .with_description("One model: where it is, its size, and whether it is loaded.")
            .with_mime_type(JSON),
        ResourceTemplate::new(JOB_TEMPLATE, "job")
            .with_title("A job")
            .with_description("One job: how far it is, its result, or its error.")
            .with_mime_type(JSON),
    ]
}

impl Session {
    /// Every resource: the two lists, the models that are here, and the newest jobs.
    ///
    /// # Errors
    /// When the models cannot be listed. A broken job store only leaves the jobs out.
    pub(super) async fn resource_list(&self) -> Result<Vec<Resource>, ErrorData> {
        let list = |place: Place, name: &str, title: &str, description: &str| {
            Resource::new(place.uri(), name)
                .with_title(title)
                .with_description(description)
                .with_mime_type(JSON)
        };
        let mut resources = vec![
            list(Place::Models, "models", "Models", "The models of this machine."),
            list(Place::Jobs, "jobs", "Jobs", "The newest jobs, without their results."),
        ];
        let models = self.service.list_models().await.map_err(|error| internal(&error))?.models;
        let here = models.into_iter().filter(|model| model.state != ModelState::Available);
        resources.extend(here.map(|model| {
            let state = match model.state {
                ModelState::Loaded => "loaded",
                ModelState::Loading => "being loaded",
                ModelState::Broken => "broken",
                ModelState::Quarantined => "quarantined",
                ModelState::OnDisk | ModelState::Available => "on disk",
            };
            let description = match model.description.as_str() {
                "" => state.to_owned(),
                description => format!("{state}; {description}"),
            };
            Resource::new(Place::Model(model.name.clone()).uri(), model.name)
                .with_description(description)
                .with_mime_type(JSON)
        }));
        let request = self.request(&self.service.next_request_id(), Class::Simple, None);
        if let Ok(listed) = self.jobs.list(ListJobsParams::default(), &request).await {
            resources.extend(listed.jobs.into_iter().map(|job| {
                let description = format!("{} of {}", job.kind, job.created_at);
                Resource::new(Place::Job(job.id.clone()).uri(), job.id)
                    .with_description(description)
                    .with_mime_type(JSON)
            }));
        }
        Ok(resources)
    }

    /// What is at an address.
    ///
    /// # Errors
    /// `resource not found` naming the address; what reading it reports.
    pub(super) async fn read_place(&self, uri: &str) -> Result<ReadResourceResult, ErrorData> {
        let content = match Place::read(uri) {
            None => Err(not_found(uri)),
            Some(place) => self.content(&place).await.map_err(|error| match error.code {
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

    async fn content(&self, place: &Place) -> Result<Value, ErrorBody> {
        let request = self.request(&self.service.next_request_id(), Class::Simple, None);
        match place {
            Place::Models => Ok(json!(self.service.list_models().await?)),
            Place::Model(name) => {
                let models = self.service.list_models().await?.models;
                let entry = models.into_iter().find(|model| model.name == *name);
                let entry = entry.ok_or_else(|| {
                    let message = format!("there is no model `{}`", brief(name));
                    ErrorBody::new(ErrorCode::ModelNotFound, message)
                })?;
                let loaded = self.service.status().models;
                let loaded = loaded.into_iter().find(|model| model.name == *name);
                Ok(json!({ "model": entry, "loaded": loaded }))
            }
            Place::Jobs => Ok(json!(self.jobs.list(ListJobsParams::default(), &request).await?)),
            Place::Job(id) => Ok(json!(self.jobs.get(id, &request).await?)),
        }
    }
}

/// MCP's error for an address nobody lives at.
pub(super) fn not_found(uri: &str) -> ErrorData {
    let uri = brief(uri);
    let message = format!(
        "there is no resource `{uri}`; there are {MODELS}, {MODEL_TEMPLATE}, {JOBS} and {JOB_TEMPLATE}"
    );
    ErrorData::resource_not_found(message, Some(json!({ "uri": uri })))
}

/// An error of the service as a protocol error, with all that is known of it.
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
    fn addresses_name_their_places_and_back() {
        for (place, uri) in [
            (Place::Models, "ingle://models"),
            (Place::Model("smollm2".to_owned()), "ingle://models/smollm2"),
            (Place::Model("a/b:Q4@é".to_owned()), "ingle://models/a%2Fb%3AQ4%40%C3%A9"),
            (Place::Jobs, "ingle://jobs"),
            (Place::Job("j-1".to_owned()), "ingle://jobs/j-1"),
        ] {
            assert_eq!(place.uri(), uri);
            assert_eq!(Place::read(uri), Some(place));
        }
        let long = not_found(&format!("ingle://models/{}", "x".repeat(100_000)));
        assert!(serde_json::to_string(&long).unwrap().len() < 1_000, "{long:?}");
        // As a person would write it.
        assert_eq!(Place::read("ingle://models/a/b"), Some(Place::Model("a/b".to_owned())));
        for foreign in [
            "",
            "ingle://",
            "ingle://models/",
            "ingle://modelsx",
            "file:///etc/passwd",
            "ingle://models/%4",
            "ingle://jobs/%ff",
        ] {
            assert_eq!(Place::read(foreign), None, "{foreign}");
        }
    }
}
