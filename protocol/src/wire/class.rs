//! The class of a call, from its method and the few parameters that decide it.
//!
//! Owns what the shim must know of calls whose bytes it passes on: W, and the sender's budget.
//! Reads no clock.

use std::borrow::Cow;

use serde::Deserialize;
use serde::de::IgnoredAny;
use serde_json::value::RawValue;

use super::Method;
use super::embed::Embed;
use super::generate::Generate;
use super::models::{LoadModel, PullModel};
use crate::deadline::Budget;
use crate::mcp_tools;
use crate::timeouts::{Class, WorkTimeouts};

/// The time limits of a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CallTime {
    /// Its class.
    pub class: Class,
    /// W of the method itself, in milliseconds, where no class fits it.
    pub method_work_ms: Option<u64>,
    /// The sender's budget.
    pub budget: Option<Budget>,
}

impl CallTime {
    /// W in milliseconds, under these timeouts of the classes.
    #[must_use]
    pub fn work_ms(&self, timeouts: &WorkTimeouts) -> u64 {
        self.method_work_ms.unwrap_or_else(|| timeouts.work_ms(self.class))
    }
}

/// The parameters that decide the class. All others are skipped.
#[derive(Debug, Default, Deserialize)]
struct DecidingParams<'a> {
    #[serde(default)]
    messages: Option<IgnoredAny>,
    #[serde(default)]
    budget: Option<Budget>,
    /// MCP: the name of the tool.
    #[serde(default, borrow)]
    name: Option<Cow<'a, str>>,
    /// MCP: its arguments.
    #[serde(default, borrow)]
    arguments: Option<&'a RawValue>,
}

impl DecidingParams<'_> {
    /// The class of a call of an MCP tool.
    fn tool_class(&self) -> Class {
        #[derive(Deserialize)]
        struct Texts {
            texts: Vec<IgnoredAny>,
        }
        let name = self.name.as_deref().unwrap_or_default();
        let texts = self.arguments.filter(|_| name == "embed");
        match texts.and_then(|raw| serde_json::from_str::<Texts>(raw.get()).ok()) {
            Some(Texts { texts }) => mcp_tools::embed_class(texts.len()),
            None => mcp_tools::tool(name).class,
        }
    }
}

/// The time limits of a call. Unreadable parameters count as absent: the daemon refuses them soon.
#[must_use]
pub fn call_time(method: &str, params: Option<&RawValue>) -> CallTime {
    let looks = matches!(method, Generate::NAME | Embed::NAME | "tools/call");
    let params = params.filter(|_| looks).map_or("{}", RawValue::get);
    let deciding: DecidingParams<'_> = serde_json::from_str(params).unwrap_or_default();
    let of = |class, method_work_ms, budget| CallTime { class, method_work_ms, budget };
    match method {
        Generate::NAME if deciding.messages.is_some() => of(Class::Chat, None, deciding.budget),
        Generate::NAME => of(Class::Completions, None, deciding.budget),
        Embed::NAME => of(Embed::CLASS, Embed::WORK_MS, deciding.budget),
        LoadModel::NAME => of(LoadModel::CLASS, LoadModel::WORK_MS, None),
        PullModel::NAME => of(PullModel::CLASS, PullModel::WORK_MS, None),
        "tools/call" => of(deciding.tool_class(), None, None),
        // Status, lists and handshakes; an unknown method is refused as quickly.
        _ => of(Class::Simple, None, None),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::limits;

    #[test]
    fn the_class_follows_method_and_parameters() {
        let timeouts = WorkTimeouts::default();
        for (method, params, class) in [
            ("generate", r#"{"messages":[{"role":"user","content":"x"}]}"#, Class::Chat),
            ("generate", r#"{"prompt":"x","unknown":[1]}"#, Class::Completions),
            ("generate", "7", Class::Completions),
            ("embed", "{}", Class::Embeddings),
            (
                "tools/call",
                r#"{"name":"chat","arguments":{"name":"list_models"}}"#,
                Class::Workflow,
            ),
            ("tools/call", r#"{"name":"list_models"}"#, Class::Simple),
            ("tools/call", r#"{"name":"from_the_future"}"#, Class::Workflow),
            ("tools/call", r#"{"name":"embed","arguments":{"texts":["a"]}}"#, Class::Simple),
            ("tools/call", r#"{"name":"embed","arguments":{"texts":["a","b"]}}"#, Class::Workflow),
            ("tools/call", r#"{"name":"embed","arguments":{"texts":7}}"#, Class::Workflow),
            ("status", "{}", Class::Simple),
        ] {
            let params: &RawValue = serde_json::from_str(params).unwrap();
            let time = call_time(method, Some(params));
            assert_eq!(time.class, class, "{method}");
            assert_eq!(time.work_ms(&timeouts), timeouts.work_ms(class), "{method}");
        }
        let params = r#"{"prompt":"x","budget":{"work_ms":200}}"#;
        let time = call_time("generate", Some(serde_json::from_str(params).unwrap()));
        assert_eq!(time.budget.unwrap().work_ms, Some(200));
        assert_eq!(call_time("models.pull", None).work_ms(&timeouts), limits::PULL_MS);
    }
}
