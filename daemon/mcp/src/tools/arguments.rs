//! What the tools take: argument types, and errors that a model can repair a call by.
//!
//! Owns names, meaning and bounds of arguments. Knows nothing of what is done with them.

use ingle_protocol::error::{ErrorBody, ErrorCode};
use ingle_protocol::keep_alive::KeepAlive;
use ingle_protocol::wire::generate::{GenerateParams, Message, OutputFormat};
use ingle_protocol::wire::jobs::JobStatus;
use rmcp::model::JsonObject;
use schemars::JsonSchema;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value, json};

use super::schema;
use crate::brief::{EXPECTED, brief, problem};

/// Arguments of `chat`.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Chat {
    /// What to say to the model. Give either this or `messages`.
    prompt: Option<String>,
    /// The conversation so far, instead of `prompt`; its last message is answered.
    messages: Option<Vec<ChatMessage>>,
    /// How the model should behave.
    system: Option<String>,
    /// Name of a model from list_models; the default model when absent.
    model: Option<String>,
    /// Most tokens to generate; 4096 when absent.
    max_tokens: Option<u32>,
    /// 0 (the default) always gives the likeliest answer; 1 varies freely.
    temperature: Option<f32>,
    /// Draw from the likeliest tokens that sum to this probability; 1 (the default) keeps all.
    top_p: Option<f32>,
    /// Above 1, the last 64 tokens of prompt and text are made less likely to come again; try 1.1
    /// against a text that goes in circles.
    repetition_penalty: Option<f32>,
    /// With the same seed, the same text is drawn again.
    seed: Option<u64>,
    /// Strings that end the answer.
    stop: Option<Vec<String>>,
    /// The form of the answer: "text" (the default), "json" for some JSON object, or a JSON Schema
    /// that the answer is made to fit.
    format: Option<Format>,
}

/// One message of a conversation.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct ChatMessage {
    /// Who says it.
    role: ChatRole,
    /// What is said.
    content: String,
}

/// Who says a message.
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

/// The form of an answer.
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
    /// The argument that says what is to be answered.
    pub(super) fn question(&self) -> &'static str {
        if self.prompt.is_some() { "prompt" } else { "messages" }
    }

    /// What the service is asked for.
    ///
    /// # Errors
    /// `INVALID_PARAMS` unless exactly one of `prompt` and `messages` is given.
    pub(super) fn params(self) -> Result<GenerateParams, ErrorBody> {
        let system = self.system.map(|content| Message::new("system", content));
        let said = match (self.prompt, self.messages) {
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
                let problem = "`chat` was given neither `prompt` nor `messages`";
                return Err(invalid(
                    "prompt",
                    problem,
                    "Call `chat` again with `prompt`, a string.",
                ));
            }
            (Some(_), Some(_)) => {
                let problem = "`chat` was given both `prompt` and `messages`";
                let next = "Leave `prompt` out and make it the last of `messages`.";
                return Err(invalid("prompt", problem, next));
            }
        };
        let format = self.format.map(|format| match format {
            Format::Word(FormatWord::Text) => OutputFormat::Text,
            Format::Word(FormatWord::Json) => OutputFormat::JsonObject,
            Format::Schema(schema) => OutputFormat::JsonSchema { schema: Value::Object(schema) },
        });
        Ok(GenerateParams {
            model: self.model,
            messages: Some(system.into_iter().chain(said).collect()),
            max_tokens: self.max_tokens,
            temperature: self.temperature,
            top_p: self.top_p,
            repetition_penalty: self.repetition_penalty,
            seed: self.seed,
            stop: self.stop.unwrap_or_default(),
            format,
            ..GenerateParams::default()
        })
    }
}

/// Arguments of `generate`.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Generate {
    /// Raw text for the model to continue, without a chat template.
    prompt: String,
    /// Name of a model from list_models; the default model when absent.
    model: Option<String>,
    /// Most tokens to generate; 4096 when absent.
    max_tokens: Option<u32>,
    /// 0 (the default) always gives the likeliest text; 1 varies freely.
    temperature: Option<f32>,
    /// Draw from the likeliest tokens that sum to this probability; 1 (the default) keeps all.
    top_p: Option<f32>,
    /// Above 1, the last 64 tokens of prompt and text are made less likely to come again; try 1.1
    /// against a text that goes in circles.
    repetition_penalty: Option<f32>,
    /// With the same seed, the same text is drawn again.
    seed: Option<u64>,
    /// Strings that end the text.
    stop: Option<Vec<String>>,
}

impl Generate {
    /// What the service is asked for.
    pub(super) fn params(self) -> GenerateParams {
        GenerateParams {
            model: self.model,
            prompt: Some(self.prompt),
            max_tokens: self.max_tokens,
            temperature: self.temperature,
            top_p: self.top_p,
            repetition_penalty: self.repetition_penalty,
            seed: self.seed,
            stop: self.stop.unwrap_or_default(),
            ..GenerateParams::default()
        }
    }
}

/// Arguments of `complete_code`.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct CompleteCode {
    /// The code before the gap.
    prefix: String,
    /// The code after the gap; without it the code is continued at its end.
    suffix: Option<String>,
    /// Name of a code model from list_models; the default model when absent.
    model: Option<String>,
    /// Most tokens to generate; 4096 when absent.
    max_tokens: Option<u32>,
    /// 0 (the default) always gives the likeliest code; 1 varies freely.
    temperature: Option<f32>,
    /// With the same seed, the same code is drawn again.
    seed: Option<u64>,
    /// Strings that end the code, such as a blank line.
    stop: Option<Vec<String>>,
}

impl CompleteCode {
    /// What the service is asked for.
    pub(super) fn params(self) -> GenerateParams {
        GenerateParams {
            model: self.model,
            prompt: Some(self.prefix),
            suffix: self.suffix,
            max_tokens: self.max_tokens,
            temperature: self.temperature,
            seed: self.seed,
            stop: self.stop.unwrap_or_default(),
            ..GenerateParams::default()
        }
    }
}

/// Arguments of `embed`.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Embed {
    /// The texts; each gets a vector of its own.
    pub(super) texts: Vec<String>,
    /// Name of an embedding model from list_models; the default model when absent.
    pub(super) model: Option<String>,
}

/// Arguments of `count_tokens`.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct CountTokens {
    /// The text to count.
    pub(super) text: String,
    /// Name of the model whose tokens are meant; the default model when absent.
    pub(super) model: Option<String>,
}

/// Arguments of tools that take none.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Nothing {}

/// Arguments of `load_model`.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct LoadModel {
    /// Name of a model from list_models; the default model when absent.
    pub(super) model: Option<String>,
    /// How long it stays in memory after its last use: such as "10m", "1h30m", "0" or "forever".
    #[schemars(with = "Option<String>")]
    pub(super) keep_alive: Option<KeepAlive>,
    /// Whether it stays in memory whatever else needs room.
    pub(super) pin: Option<bool>,
}

/// Arguments of `unload_model`.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct UnloadModel {
    /// Name of a model that list_models shows as loaded.
    pub(super) model: String,
}

/// Arguments of `job_get`, `job_wait` and `job_cancel`.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Job {
    /// The job's id, from the reply that named it.
    pub(super) job_id: String,
}

/// Arguments of `job_list`.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct JobList {
    /// Only jobs that stand there.
    #[schemars(with = "Option<StatusWord>")]
    pub(super) status: Option<JobStatus>,
    /// At most so many, the newest first; 20 when absent.
    #[schemars(range(min = 1, max = 1000))]
    pub(super) limit: Option<usize>,
}

/// Where a job stands.
#[derive(JsonSchema)]
#[serde(rename_all = "snake_case")]
#[expect(dead_code, reason = "it is there for its schema")]
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
/// `INVALID_PARAMS` naming the argument and what was expected of it.
pub(super) fn read<T: DeserializeOwned + JsonSchema>(
    tool: &str,
    arguments: JsonObject,
) -> Result<T, ErrorBody> {
    serde_path_to_error::deserialize(Value::Object(arguments)).map_err(|error| {
        let (path, problem) = (error.path().to_string(), in_plain_words(error.inner()));
        let path = brief(&path);
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
                // Of an unknown argument the problem itself says which there are.
                if !problem.contains("expected one of") {
                    next.push_str(&format!(" It takes {takes}."));
                }
                invalid(field, &message, &next)
            }
        }
    })
}

/// Serde's words for types, as a model knows them from schemas.
fn in_plain_words(error: &serde_json::Error) -> String {
    let text = problem(error);
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

/// What an argument's schema says of it.
fn hint(schema: &Value) -> String {
    let kind = schema["type"].as_str().map(|kind| format!("It is of type {kind}. "));
    let meaning = schema["description"].as_str().unwrap_or_default();
    format!("{}{}", kind.unwrap_or_default(), meaning.replace('\n', " "))
}

/// An argument that is not what it should be.
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
    fn a_bad_argument_is_named_with_what_was_expected() {
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
    fn what_may_be_left_out_may_be_null_and_says_what_holds_then() {
        let (chat, text, code) =
            (schema::input::<Chat>(), schema::input::<Generate>(), schema::input::<CompleteCode>());
        for schema in [&chat, &text, &code] {
            let known = schema["properties"].as_object().unwrap();
            let said = known["max_tokens"]["description"].as_str().unwrap();
            let default = format!("{} when absent", ingle_service::limits::DEFAULT_MAX_TOKENS);
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
    fn a_chat_has_a_prompt_or_a_conversation() {
        let params = |arguments| read::<Chat>("chat", object(arguments)).unwrap().params();
        let messages = json!([
            { "role": "user", "content": "a" },
            { "role": "assistant", "content": "b" },
            { "role": "user", "content": "c" },
        ]);
        let chat =
            params(json!({ "system": "s", "messages": messages, "format": "json" })).unwrap();
        let roles: Vec<_> = chat.messages.unwrap().into_iter().map(|said| said.role).collect();
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
