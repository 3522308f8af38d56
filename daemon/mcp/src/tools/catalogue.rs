//! Catalogue of the tools: titles, descriptions, annotations and schemas.
//!
//! Owns what hosts and models read about a tool. Does not run tools.

use std::sync::Arc;

use rmcp::model::{JsonObject, Tool, ToolAnnotations};

use super::outputs::{
    GeneratedText, JobSummaries, JobSummary, LoadingModel, Models, ResidentModel, RunningWork,
    ServerStatus, TokenCount, UnloadedModel, Vectors,
};
use super::schema::{output, plain};
use super::{arguments, schema};

/// The effect of a call, for hosts that ask the user before a model may call.
#[derive(Clone, Copy)]
enum Effect {
    /// A model generates; the same call can return another result.
    Generates,
    /// Nothing changes.
    ReadOnly,
    /// Models are loaded or unloaded; nothing is lost.
    Idempotent,
    /// Work is lost.
    Destructive,
}

impl Effect {
    fn annotations(self, title: &str) -> ToolAnnotations {
        // All effects stay on this machine, so no call reaches an open world.
        let hints = ToolAnnotations::with_title(title).open_world(false);
        match self {
            Self::Generates => hints.read_only(true).destructive(false).idempotent(false),
            Self::ReadOnly => hints.read_only(true).destructive(false).idempotent(true),
            Self::Idempotent => hints.read_only(false).destructive(false).idempotent(true),
            Self::Destructive => hints.read_only(false).destructive(true).idempotent(true),
        }
    }
}

fn tool(
    name: &'static str,
    title: &'static str,
    effect: Effect,
    description: &'static str,
    input: Arc<JsonObject>,
    output: Arc<JsonObject>,
) -> Tool {
    Tool::new(name, description, input)
        .with_title(title)
        .with_annotations(effect.annotations(title))
        .with_raw_output_schema(output)
}

/// All tools, in the order of the list.
pub(crate) fn tool_list() -> Vec<Tool> {
    let text = || output(vec![plain::<GeneratedText>(), plain::<RunningWork>()]);
    let work =
        || output(vec![plain::<GeneratedText>(), plain::<Vectors>(), plain::<RunningWork>()]);
    vec![
        tool(
            "chat",
            "Chat with a local model",
            Effect::Generates,
            "Send a prompt or a conversation to a language model that runs on this machine, with \
             the model's chat template. A JSON Schema can constrain the response.",
            schema::input::<arguments::Chat>(),
            text(),
        ),
        tool(
            "generate",
            "Continue a text with a local model",
            Effect::Generates,
            "Continue a raw text with a language model that runs on this machine.",
            schema::input::<arguments::Generate>(),
            text(),
        ),
        tool(
            "complete_code",
            "Fill in code with a local model",
            Effect::Generates,
            "Write the code between a prefix and a suffix (fill in the middle) with a code model \
             that runs on this machine. Returns that code only.",
            schema::input::<arguments::CompleteCode>(),
            text(),
        ),
        tool(
            "embed",
            "Embed texts with a local model",
            Effect::ReadOnly,
            "Compute vectors of unit length for texts with an embedding model that runs on this \
             machine. The dot product of two vectors is the similarity of their texts.",
            schema::input::<arguments::Embed>(),
            output(vec![plain::<Vectors>(), plain::<RunningWork>()]),
        ),
        tool(
            "count_tokens",
            "Count tokens",
            Effect::ReadOnly,
            "Count the tokens of a text for a model of this machine. Does not load the model.",
            schema::input::<arguments::CountTokens>(),
            output(vec![plain::<TokenCount>()]),
        ),
        tool(
            "list_models",
            "List local models",
            Effect::ReadOnly,
            "List the language models of this machine, and whether each is loaded.",
            schema::input::<arguments::NoArguments>(),
            output(vec![plain::<Models>()]),
        ),
        tool(
            "load_model",
            "Load a model",
            Effect::Idempotent,
            "Load a model into memory ahead of its first use, which would load it too. A load that \
             takes too long for one reply continues; call load_model again to wait for it.",
            schema::input::<arguments::LoadModel>(),
            output(vec![plain::<ResidentModel>(), plain::<LoadingModel>()]),
        ),
        tool(
            "unload_model",
            "Unload a model",
            Effect::Idempotent,
            "Remove a model from memory. Its files stay, and its next use loads it again. Refused \
             while the model is in use.",
            schema::input::<arguments::UnloadModel>(),
            output(vec![plain::<UnloadedModel>()]),
        ),
        tool(
            "server_status",
            "Show the state of the model server",
            Effect::ReadOnly,
            "Show the state of the local model server: its activity, loaded models, memory and \
             waiting work.",
            schema::input::<arguments::NoArguments>(),
            output(vec![plain::<ServerStatus>()]),
        ),
        tool(
            "job_wait",
            "Wait for a job",
            Effect::ReadOnly,
            "Wait for a job (a call that took too long for one reply), and return its whole \
             result. Returns the progress if the job has not ended in time; then call it again.",
            schema::input::<arguments::Job>(),
            work(),
        ),
        tool(
            "job_get",
            "Show a job",
            Effect::ReadOnly,
            "Show a job without waiting: its result, or its progress and its text so far.",
            schema::input::<arguments::Job>(),
            work(),
        ),
        tool(
            "job_list",
            "List jobs",
            Effect::ReadOnly,
            "List jobs, the newest first, without their results.",
            schema::input::<arguments::JobList>(),
            output(vec![plain::<JobSummaries>()]),
        ),
        tool(
            "job_cancel",
            "Cancel a job",
            Effect::Destructive,
            "Cancel a job whose result is no longer needed.",
            schema::input::<arguments::Job>(),
            output(vec![plain::<JobSummary>()]),
        ),
    ]
}
