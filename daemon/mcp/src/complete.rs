//! Completion of what a user types for a prompt or a resource template.
//!
//! Owns which argument has which values. A prompt's code has none.

use crate::limits;
use ingle_protocol::timeouts::Class;
use ingle_protocol::wire::jobs::ListJobsParams;
use rmcp::ErrorData;
use rmcp::model::{CompleteRequestParams, CompleteResult, CompletionInfo, Reference};

use super::brief::brief;
use super::prompts::{FOCUSES, prompt_list};
use super::resources::{JOB_TEMPLATE, MODEL_TEMPLATE};
use super::session::Session;

impl Session {
    /// The values that begin as the user does.
    ///
    /// # Errors
    /// For a prompt, template or argument that does not exist.
    pub(super) async fn completion(
        &self,
        request: CompleteRequestParams,
    ) -> Result<CompleteResult, ErrorData> {
        let argument = request.argument;
        let values = match (&request.r#ref, argument.name.as_str()) {
            (Reference::Resource(template), "name") if template.uri == MODEL_TEMPLATE => {
                // A user who types is not told of a broken disk.
                let models = self.service.list_models().await.map(|list| list.models);
                models.unwrap_or_default().into_iter().map(|model| model.name).collect()
            }
            (Reference::Resource(template), "id") if template.uri == JOB_TEMPLATE => {
                let request = self.request(&self.service.next_request_id(), Class::Simple, None);
                let jobs = self.jobs.list(ListJobsParams::default(), &request).await;
                let jobs = jobs.map(|list| list.jobs).unwrap_or_default();
                jobs.into_iter().map(|job| job.id).collect()
            }
            (Reference::Prompt(prompt), name) => {
                let known = prompt_list().into_iter().find(|known| known.name == prompt.name);
                let mut arguments = known.and_then(|known| known.arguments).unwrap_or_default();
                arguments.retain(|argument| argument.name == name);
                match (arguments.first(), name) {
                    (Some(_), "focus") => FOCUSES.map(str::to_owned).to_vec(),
                    (Some(_), _) => Vec::new(),
                    (None, name) => {
                        let message = format!(
                            "the prompt `{}` has no `{}`",
                            brief(&prompt.name),
                            brief(name)
                        );
                        return Err(ErrorData::invalid_params(message, None));
                    }
                }
            }
            (_, name) => {
                let message = format!(
                    "nothing is completed for `{}`: `name` of {MODEL_TEMPLATE} is, `id` of \
                     {JOB_TEMPLATE}, and the arguments of prompts",
                    brief(name)
                );
                return Err(ErrorData::invalid_params(message, None));
            }
        };
        Ok(CompleteResult::new(matching(values, &argument.value)))
    }
}

/// The values that begin like `typed`, as many as one answer may have.
fn matching(values: Vec<String>, typed: &str) -> CompletionInfo {
    let typed = typed.to_lowercase();
    let mut values: Vec<String> =
        values.into_iter().filter(|value| value.to_lowercase().starts_with(&typed)).collect();
    let mut info = CompletionInfo::default();
    info.total = u32::try_from(values.len()).ok();
    info.has_more = Some(values.len() > limits::MCP_PAGE);
    values.truncate(limits::MCP_PAGE);
    info.values = values;
    info
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_begin_as_typed_and_are_bounded() {
        let info = matching(FOCUSES.map(str::to_owned).to_vec(), "Se");
        assert_eq!((info.values, info.has_more), (vec!["security".to_owned()], Some(false)));
        let info = matching(vec!["m".to_owned(); limits::MCP_PAGE + 1], "");
        assert_eq!((info.values.len(), info.has_more), (limits::MCP_PAGE, Some(true)));
    }
}
