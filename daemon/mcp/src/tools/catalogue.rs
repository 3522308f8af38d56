//! How the tools are described to hosts and models.
//!
//! Owns titles, descriptions, annotations and schemas. Knows nothing of what a tool does.

use std::sync::Arc;

use rmcp::model::{JsonObject, Tool, ToolAnnotations};

use super::outputs::{
    COUNT, JOB, JOBS, JobLine, JobLines, LOADED, LOADING, Load, MODELS, Models, RUNNING, STATUS,
    Server, TEXT, TokenCount, UNLOADED, Unloaded, VECTORS, Work,
};
use super::{arguments, schema};

/// What a call does to the world, for hosts that ask before they let a model call.
#[derive(Clone, Copy)]
enum Effect {
    /// A model is asked; the same call can give another answer.
    Asks,
    /// It looks.
    Looks,
    /// It changes what is in memory, and loses nothing.
    Arranges,
    /// Something is lost.
    Ends,
}

impl Effect {
    fn annotations(self, title: &str) -> ToolAnnotations {
        // Everything happens on this machine: no call reaches an open world.
        let hints = ToolAnnotations::with_title(title).open_world(false);
        match self {
            Self::Asks => hints.read_only(true).destructive(false).idempotent(false),
            Self::Looks => hints.read_only(true).destructive(false).idempotent(true),
            Self::Arranges => hints.read_only(false).destructive(false).idempotent(true),
            Self::Ends => hints.read_only(false).destructive(true).idempotent(true),
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

/// All tools, in the order in which they are listed.
pub(crate) fn tool_list() -> Vec<Tool> {
    let text = || schema::output::<Work>(&[TEXT, RUNNING]);
    let work = || schema::output::<Work>(&[TEXT, VECTORS, RUNNING]);
    vec![
        tool(
            "chat",
            "Chat with a local model",
            Effect::Asks,
            "Ask a language model that runs on this machine. Answers a prompt or a conversation \
             with the model's chat template; the answer can be made to fit a JSON Schema.",
            schema::input::<arguments::Chat>(),
            text(),
        ),
        tool(
            "generate",
            "Continue a text with a local model",
            Effect::Asks,
            "Continue a raw text with a language model that runs on this machine.",
            schema::input::<arguments::Generate>(),
            text(),
        ),
        tool(
            "complete_code",
            "Fill in code with a local model",
            Effect::Asks,
            "Write the code that belongs between a prefix and a suffix (fill in the middle) with a \
             code model that runs on this machine. Gives that code only.",
            schema::input::<arguments::CompleteCode>(),
            text(),
        ),
        tool(
            "embed",
            "Embed texts with a local model",
            Effect::Looks,
            "Turn texts into vectors of length 1 with an embedding model that runs on this machine: \
             the dot product of two is the similarity of their texts.",
            schema::input::<arguments::Embed>(),
            schema::output::<Work>(&[VECTORS, RUNNING]),
        ),
        tool(
            "count_tokens",
            "Count tokens",
            Effect::Looks,
            "Count the tokens a text has for a model of this machine. Loads no model.",
            schema::input::<arguments::CountTokens>(),
            schema::output::<TokenCount>(&[COUNT]),
        ),
        tool(
            "list_models",
            "List local models",
            Effect::Looks,
            "List the language models of this machine and say which are loaded.",
            schema::input::<arguments::Nothing>(),
            schema::output::<Models>(&[MODELS]),
        ),
        tool(
            "load_model",
            "Load a model",
            Effect::Arranges,
            "Load a model into memory ahead of its first use, which would do it too. A load that \
             takes too long for one reply goes on; call it again to wait for it.",
            schema::input::<arguments::LoadModel>(),
            schema::output::<Load>(&[LOADED, LOADING]),
        ),
        tool(
            "unload_model",
            "Unload a model",
            Effect::Arranges,
            "Drop a model from memory; its files stay, and its next use loads it again. Refused \
             while somebody uses it.",
            schema::input::<arguments::UnloadModel>(),
            schema::output::<Unloaded>(&[UNLOADED]),
        ),
        tool(
            "server_status",
            "Show how the model server is",
            Effect::Looks,
            "Say how the local model server is: what it does, what is loaded, memory, and work \
             that waits.",
            schema::input::<arguments::Nothing>(),
            schema::output::<Server>(&[STATUS]),
        ),
        tool(
            "job_wait",
            "Wait for a job",
            Effect::Looks,
            "Wait for a call that took too long and goes on as a job, and get its whole result. \
             Says how far it is if it has not ended in time; call it again then.",
            schema::input::<arguments::Job>(),
            work(),
        ),
        tool(
            "job_get",
            "Look at a job",
            Effect::Looks,
            "Look at a job without waiting: its result, or how far it is and its text so far.",
            schema::input::<arguments::Job>(),
            work(),
        ),
        tool(
            "job_list",
            "List jobs",
            Effect::Looks,
            "List jobs, the newest first, without their results.",
            schema::input::<arguments::JobList>(),
            schema::output::<JobLines>(&[JOBS]),
        ),
        tool(
            "job_cancel",
            "Cancel a job",
            Effect::Ends,
            "End a job whose result is no longer wanted.",
            schema::input::<arguments::Job>(),
            schema::output::<JobLine>(&[JOB]),
        ),
    ]
}
