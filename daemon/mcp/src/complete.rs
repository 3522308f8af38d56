//! Argument completion for prompts and resource templates, as a user types.
//!
//! Owns the values of each argument. A prompt's code has none.

use crate::limits;
use ingle_protocol::wire::jobs::ListJobsParams;
use rmcp::ErrorData;
use rmcp::model::{CompleteRequestParams, CompleteResult, CompletionInfo, Reference};

use super::context::HostContext;
use super::prompts::{FOCUSES, prompt_list};
use super::resources::{JOB_TEMPLATE, MODEL_TEMPLATE};
use super::truncate::truncated;

/// The values that begin with what the user has typed.
///
/// # Errors
/// A prompt, template or argument that does not exist.
pub(super) async fn complete(
    host: &HostContext,
    request: CompleteRequestParams,
) -> Result<CompleteResult, ErrorData> {
    let argument = request.argument;
    let values = match (&request.r#ref, argument.name.as_str()) {
        (Reference::Resource(template), "name") if template.uri == MODEL_TEMPLATE => {
            // While a user types, an unreadable models folder only means that there are no values.
            let models = host.service.list_models().await.map(|list| list.models);
            models.unwrap_or_default().into_iter().map(|model| model.name).collect()
        }
        (Reference::Resource(template), "id") if template.uri == JOB_TEMPLATE => {
            let request = host.simple_request();
            let jobs = host.jobs.list(ListJobsParams::default(), &request).await;
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
                        "the prompt `{}` has no argument `{}`",
                        truncated(&prompt.name),
                        truncated(name)
                    );
                    return Err(ErrorData::invalid_params(message, None));
                }
            }
        }
        (_, name) => {
            let message = format!(
                "`{}` has no completion: `name` of {MODEL_TEMPLATE}, `id` of {JOB_TEMPLATE} and \
                     the arguments of prompts have one",
                truncated(name)
            );
            return Err(ErrorData::invalid_params(message, None));
        }
    };
    Ok(CompleteResult::new(matching(values, &argument.value)))
}

/// The values that begin with `typed`, up to the limit of one response.
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
    fn matching_values_are_bounded() {
        let info = matching(FOCUSES.map(str::to_owned).to_vec(), "Se");
        assert_eq!((info.values, info.has_more), (vec!["security".to_owned()], Some(false)));
        let info = matching(vec!["m".to_owned(); limits::MCP_PAGE + 1], "");
        assert_eq!((info.values.len(), info.has_more), (limits::MCP_PAGE, Some(true)));
    }
}
