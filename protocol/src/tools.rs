//! The MCP tools, as far as daemon and shim must agree on them: class, and whether they change
//! anything.
//!
//! Owns the table. Knows nothing of arguments or results; the daemon's `mcp` does.

use crate::timeouts::Class;

/// One tool.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ToolKind {
    /// Its name.
    pub name: &'static str,
    /// The class whose ladder bounds a call.
    pub class: Class,
    /// Whether a second call could do harm.
    pub changes_state: bool,
}

const fn reads(name: &'static str, class: Class) -> ToolKind {
    ToolKind { name, class, changes_state: false }
}

const fn changes(name: &'static str, class: Class) -> ToolKind {
    ToolKind { name, class, changes_state: true }
}

/// Every tool of this build.
pub const TOOLS: &[ToolKind] = &[
    reads("chat", Class::Workflow),
    reads("generate", Class::Workflow),
    reads("complete_code", Class::Workflow),
    reads("embed", Class::Workflow),
    reads("count_tokens", Class::Simple),
    reads("list_models", Class::Simple),
    changes("load_model", Class::Workflow),
    changes("unload_model", Class::Simple),
    reads("server_status", Class::Simple),
    reads("job_wait", Class::Workflow),
    reads("job_get", Class::Simple),
    reads("job_list", Class::Simple),
    changes("job_cancel", Class::Simple),
];

/// The tool of that name. One that this build does not know is of the default class, and is taken
/// to change something.
#[must_use]
pub fn tool(name: &str) -> ToolKind {
    let known = TOOLS.iter().copied().find(|tool| tool.name == name);
    known.unwrap_or(ToolKind { name: "", class: Class::Workflow, changes_state: true })
}
