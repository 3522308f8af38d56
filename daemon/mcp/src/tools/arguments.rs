//! Arguments of the tools, and errors from which a model can correct a call.
//!
//! Owns names, descriptions and bounds of arguments. Does not run tools.

use ingle_protocol::error::{ErrorBody, ErrorCode};
use ingle_protocol::keep_alive::KeepAlive;
use ingle_protocol::sampling;
use ingle_protocol::wire::generate::{GenerateParams, Message, OutputFormat};
use ingle_protocol::wire::jobs::JobStatus;
use rmcp::model::JsonObject;
use schemars::JsonSchema;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value, json};

use super::schema;
use crate::truncate::{EXPECTED, serde_message, truncated};

/// Declares the arguments of a tool that generates text: its own and the shared ones.
///
/// serde's `flatten` would not do: it does not combine with `deny_unknown_fields`.
macro_rules! with_generation_arguments {
    ($(#[$meta:meta])* pub(super) struct $name:ident { $($own:tt)* }) => {
        $(#[$meta])*
        pub(super) struct $name {
            $($own)*
            /// Name of a model from list_models (default: the default model).
            model: Option<String>,
            /// Maximum number of tokens to generate (default 4096).
            max_tokens: Option<u32>,
            /// Sampling temperature; 0 (the default) is greedy, 1 is the model's own distribution.
            temperature: Option<f32>,
            #[schemars(description = sampling::SEED)]
            seed: Option<u64>,
            /// Stop strings: each ends the text.
            stop: Option<Vec<String>>,
        }

        impl $name {
            /// The service's parameters with the shared arguments only.
            fn shared(&mut self) -> GenerateParams {
                GenerateParams {
                    model: self.model.take(),
                    max_tokens: self.max_tokens,
                    temperature: self.temperature,
                    seed: self.seed,
                    stop: self.stop.take().unwrap_or_default(),
                    ..GenerateParams::default()
                }
            }
        }
    };
}

with_generation_arguments! {
    /// Arguments of `chat`.
    #[derive(Debug, Deserialize, JsonSchema)]
    #[serde(deny_unknown_fields)]
    pub(super) struct Chat {
        /// The prompt. Give either this or `messages`.
        prompt: Option<String>,
        /// The conversation so far, instead of `prompt`. The model responds to the last message.
        messages: Option<Vec<ChatMessage>>,
        /// System prompt: instructions for the model.
        system: Option<String>,
        #[schemars(description = sampling::TOP_P.description)]
        top_p: Option<f32>,
        #[schemars(description = sampling::REPETITION_PENALTY.description)]
        repetition_penalty: Option<f32>,
        /// Format of the response: "text" (default), "json" for any JSON object, or a JSON Schema
        /// that constrains the response.
        format: Option<Format>,
    }
}

/// One message of a conversation.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct ChatMessage {
    /// Role of the speaker.
    role: ChatRole,
    /// Text of the message.
    content: String,
}

/// Role of a message's speaker.
#[derive(Debug, Clone, Copy, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
enum ChatRole {
    System,
    User,
    Assistant,
}

impl ChatRole {
    const fn as_str(self) -> &'static str {
        match self {
            Self::System => "system",
            Self::User => "user",
            Self::Assistant => "assistant",
        }
    }
}

/// Format of a response.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(untagged, expecting = "it must be \"text\", \"json\" or a JSON Schema object")]
enum Format {
    Word(FormatWord),
    Schema(Map<String, Value>),
}

#[derive(Debug, Clone, Copy, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
enum FormatWord {
    Text,
    Json,
}

impl Chat {
    /// The argument that holds the prompt.
    pub(super) fn prompt_field(&self) -> &'static str {
        if self.prompt.is_some() { "prompt" } else { "messages" }
    }

    /// The service's parameters.
    ///
    /// # Errors
    /// `INVALID_PARAMS` unless exactly one of `prompt` and `messages` is given.
    pub(super) fn params(mut self) -> Result<GenerateParams, ErrorBody> {
        let shared = self.shared();
        let system = self.system.map(|content| Message::new("system", content));
        let messages = match (self.prompt, self.messages) {
            (Some(prompt), None) => vec![Message::new("user", prompt)],
            (None, Some(messages)) if !messages.is_empty() => messages
                .into_iter()
                .map(|message| Message::new(message.role.as_str(), message.content))
                .collect(),
            (None, Some(_)) => {
                let problem = "`messages` of `chat` is empty";
                return Err(invalid("messages", problem, "Give at least one message."));
            }
            (None, None) => {
                let problem = "`chat` has neither `prompt` nor `messages`";
                return Err(invalid(
                    "prompt",
                    problem,
                    "Call `chat` again with `prompt`, a string.",
                ));
            }
            (Some(_), Some(_)) => {
                let problem = "`chat` has both `prompt` and `messages`";
                let next = "Remove `prompt` and append it to `messages`.";
                return Err(invalid("prompt", problem, next));
            }
        };
        let format = self.format.map(|format| match format {
            Format::Word(FormatWord::Text) => OutputFormat::Text,
            Format::Word(FormatWord::Json) => OutputFormat::JsonObject,
            Format::Schema(schema) => OutputFormat::JsonSchema { schema: Value::Object(schema) },
        });
        Ok(GenerateParams {
            messages: Some(system.into_iter().chain(messages).collect()),
            top_p: self.top_p,
            repetition_penalty: self.repetition_penalty,
            format,
            ..shared
        })
    }
}

with_generation_arguments! {
    /// Arguments of `generate`.
    #[derive(Debug, Deserialize, JsonSchema)]
    #[serde(deny_unknown_fields)]
    pub(super) struct Generate {
        /// Text for the model to continue, without a chat template.
        prompt: String,
        #[schemars(description = sampling::TOP_P.description)]
        top_p: Option<f32>,
        #[schemars(description = sampling::REPETITION_PENALTY.description)]
        repetition_penalty: Option<f32>,
    }
}

impl Generate {
    /// The service's parameters.
    pub(super) fn params(mut self) -> GenerateParams {
        let shared = self.shared();
        GenerateParams {
            prompt: Some(self.prompt),
            top_p: self.top_p,
            repetition_penalty: self.repetition_penalty,
            ..shared
        }
    }
}

with_generation_arguments! {
    /// Arguments of `complete_code`.
    #[derive(Debug, Deserialize, JsonSchema)]
    #[serde(deny_unknown_fields)]
    pub(super) struct CompleteCode {
        /// The code before the gap.
        prefix: String,
        /// The code after the gap (default: continue `prefix`).
        suffix: Option<String>,
    }
}

impl CompleteCode {
    /// The service's parameters.
    pub(super) fn params(mut self) -> GenerateParams {
        let shared = self.shared();
        GenerateParams { prompt: Some(self.prefix), suffix: self.suffix, ..shared }
    }
}

/// Arguments of `embed`.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Embed {
    /// The texts. Each gets a vector.
    pub(super) texts: Vec<String>,
    /// Name of an embedding model from list_models (default: the default model).
    pub(super) model: Option<String>,
}

/// Arguments of `count_tokens`.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct CountTokens {
    /// The text whose tokens are counted.
    pub(super) text: String,
    /// Name of the model that tokenizes the text (default: the default model).
    pub(super) model: Option<String>,
}

/// Arguments of tools without arguments.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct NoArguments {}

/// Arguments of `load_model`.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct LoadModel {
    /// Name of a model from list_models (default: the default model).
    pub(super) model: Option<String>,
    /// How long the model stays in memory after its last use, such as "10m", "1h30m", "0" or
    /// "forever".
    #[schemars(with = "Option<String>")]
    pub(super) keep_alive: Option<KeepAlive>,
    /// Whether the model stays in memory when other models need space.
    pub(super) pin: Option<bool>,
}

/// Arguments of `unload_model`.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct UnloadModel {
    /// Name of a model that is loaded according to list_models.
    pub(super) model: String,
}

/// Arguments of `job_get`, `job_wait` and `job_cancel`.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Job {
    /// Id of the job, from an earlier reply.
    pub(super) job_id: String,
}

/// Arguments of `job_list`.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct JobList {
    /// Status of the jobs to list (default: all).
    #[schemars(with = "Option<StatusWord>")]
    pub(super) status: Option<JobStatus>,
    /// Maximum number of jobs, the newest first (default 20).
    #[schemars(range(min = 1, max = 1000))]
    pub(super) limit: Option<usize>,
}

/// Status of a job.
#[derive(JsonSchema)]
#[serde(rename_all = "snake_case")]
#[expect(dead_code, reason = "only its schema is used")]
pub(super) enum StatusWord {
    Queued,
    Running,
    Done,
    Failed,
    Cancelled,
    TimedOut,
    Interrupted,
}

/// Reads the arguments of `tool`.
///
/// # Errors
/// `INVALID_PARAMS` with the argument at fault and its expected type.
pub(super) fn read<T: DeserializeOwned + JsonSchema>(
    tool: &str,
    arguments: JsonObject,
) -> Result<T, ErrorBody> {
    serde_path_to_error::deserialize(Value::Object(arguments)).map_err(|error| {
        let (path, problem) = (error.path().to_string(), in_plain_words(error.inner()));
        let path = truncated(&path);
        let known = schema::input::<T>();
        let field = path.split(['.', '[']).next().unwrap_or_default();
        match known["properties"].get(field) {
            Some(expected) => {
                let message = format!("`{path}` of `{tool}`: {problem}");
                let next =
                    format!("Call `{tool}` again with `{field}` corrected. {}", hint(expected));
                invalid(field, &message, &next)
            }
            None => {
                let names: Vec<_> =
                    known["properties"].as_object().into_iter().flat_map(Map::keys).collect();
                let takes = match names.as_slice() {
                    [] => "no arguments".to_owned(),
                    names => format!("{names:?}").replace('"', "`"),
                };
                let message = format!("the arguments of `{tool}`: {problem}");
                let mut next = format!("Call `{tool}` again with arguments corrected.");
                // The message about an unknown argument already lists the known ones.
                if !problem.contains("expected one of") {
                    next.push_str(&format!(" It takes {takes}."));
                }
                invalid(field, &message, &next)
            }
        }
    })
}

/// The message of a serde error with the type names of JSON Schema.
fn in_plain_words(error: &serde_json::Error) -> String {
    let text = serde_message(error);
    let Some((problem, expected)) = text.rsplit_once(EXPECTED) else { return text };
    let expected = match expected {
        "u32" | "u64" | "usize" => "a whole number, 0 or more",
        "f32" | "f64" => "a number",
        "a sequence" => "a list",
        "a map" => "an object",
        other if other.starts_with("struct ") => "an object",
        other => other,
    };
    format!("{problem}{EXPECTED}{expected}")
}

/// The type and description of an argument from its schema.
fn hint(schema: &Value) -> String {
    let kind = schema["type"].as_str().map(|kind| format!("It is of type {kind}. "));
    let meaning = schema["description"].as_str().unwrap_or_default();
    format!("{}{}", kind.unwrap_or_default(), meaning.replace('\n', " "))
}

/// The error of an invalid argument.
pub(super) fn invalid(field: &str, problem: &str, next: &str) -> ErrorBody {
    ErrorBody::new(ErrorCode::InvalidParams, problem)
        .with_details(json!({ "field": field }))
        .with_remediation(next)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn object(value: Value) -> JsonObject {
        value.as_object().cloned().unwrap()
    }

    #[test]
    fn invalid_argument_is_named_with_its_type() {
        for (arguments, field, words) in [
            (json!({ "prompt": "x", "max_tokens": "ten" }), "max_tokens", "a whole number"),
            (json!({ "prompt": "x", "max_tokens": -1 }), "max_tokens", "a whole number"),
            (json!({ "prompt": 3 }), "prompt", "a string"),
            (json!({ "promt": "x" }), "promt", "`prompt`"),
            (json!({ "messages": [{ "role": "user" }] }), "messages", "`content`"),
            (json!({ "messages": [{ "role": "cat", "content": "" }] }), "messages", "`assistant`"),
            (json!({ "prompt": "x", "format": "xml" }), "format", "JSON Schema"),
            (json!({ "prompt": "x", "stop": "\n" }), "stop", "a list"),
        ] {
            let error = read::<Chat>("chat", object(arguments)).unwrap_err();
            assert_eq!(error.code, ErrorCode::InvalidParams);
            assert!(error.message.contains(field), "{error}");
            assert!(error.message.contains(words), "{error}");
            assert!(error.remediation().contains("`chat`"), "{error:?}");
        }
        let long = "x".repeat(100_000);
        for arguments in [
            json!({ "prompt": "x", "max_tokens": long }),
            json!({ &long: "x" }),
            json!({ "messages": [{ "role": long, "content": "" }] }),
            json!({ "messages": [{ &long: "" }] }),
        ] {
            let error = read::<Chat>("chat", object(arguments)).unwrap_err();
            assert!(serde_json::to_string(&error).unwrap().len() < 2_000, "{error:?}");
            assert!(error.message.contains("expected"), "{error}");
        }
        let error = read::<Job>("job_get", object(json!({}))).unwrap_err();
        assert!(error.message.contains("missing field `job_id`"), "{error}");
    }

    #[test]
    fn optional_arguments_may_be_null_and_state_defaults() {
        let (chat, text, code) =
            (schema::input::<Chat>(), schema::input::<Generate>(), schema::input::<CompleteCode>());
        for schema in [&chat, &text, &code] {
            let known = schema["properties"].as_object().unwrap();
            let said = known["max_tokens"]["description"].as_str().unwrap();
            let default = format!("(default {})", ingle_service::limits::DEFAULT_MAX_TOKENS);
            assert!(said.contains(&default), "{said}");
            let stop = &known["stop"];
            assert_eq!(
                (&stop["type"], &stop["items"]["type"]),
                (&json!("array"), &json!("string"))
            );
        }
        let nulls = |schema: &JsonObject, given: Value| {
            let mut arguments = object(given);
            for name in schema["properties"].as_object().unwrap().keys() {
                arguments.entry(name).or_insert(Value::Null);
            }
            arguments
        };
        let given = nulls(&chat, json!({ "prompt": "x" }));
        assert!(read::<Chat>("chat", given).unwrap().params().unwrap().stop.is_empty());
        let given = nulls(&text, json!({ "prompt": "x" }));
        assert!(read::<Generate>("generate", given).unwrap().params().stop.is_empty());
        let given = nulls(&code, json!({ "prefix": "x" }));
        assert!(read::<CompleteCode>("complete_code", given).unwrap().params().stop.is_empty());
    }

    #[test]
    fn chat_needs_either_prompt_or_messages() {
        let params = |arguments| read::<Chat>("chat", object(arguments)).unwrap().params();
        let messages = json!([
            { "role": "user", "content": "a" },
            { "role": "assistant", "content": "b" },
            { "role": "user", "content": "c" },
        ]);
        let chat =
            params(json!({ "system": "s", "messages": messages, "format": "json" })).unwrap();
        let roles: Vec<_> =
            chat.messages.unwrap().into_iter().map(|message| message.role).collect();
        assert_eq!(roles, ["system", "user", "assistant", "user"]);
        assert_eq!(chat.format, Some(OutputFormat::JsonObject));
        let schema = json!({ "type": "object" });
        let chat = params(json!({ "prompt": "x", "format": schema })).unwrap();
        assert_eq!(chat.format, Some(OutputFormat::JsonSchema { schema }));
        for neither_or_both in
            [json!({}), json!({ "messages": [] }), json!({ "prompt": "x", "messages": messages })]
        {
            assert_eq!(params(neither_or_both).unwrap_err().code, ErrorCode::InvalidParams);
        }
    }
}
