//! Prompts: templates that a host offers its user.
//!
//! Owns their names, arguments and texts. Calls no model: the host passes the text to its own.

use rmcp::ErrorData;
use rmcp::model::{
    GetPromptRequestParams, GetPromptResult, JsonObject, Prompt, PromptArgument, PromptMessage,
    Role,
};
use serde_json::Value;

use super::truncate::truncated;

/// Values of the argument `focus`, for completion.
pub(super) const FOCUSES: [&str; 6] =
    ["correctness", "security", "performance", "readability", "error handling", "tests"];

fn argument(name: &str, is_required: bool, description: &str) -> PromptArgument {
    PromptArgument::new(name).with_description(description).with_required(is_required)
}

/// All prompts.
pub(super) fn prompt_list() -> Vec<Prompt> {
    let prompt = |name: &str, title: &str, description: &str, arguments| {
        Prompt::new(name, Some(description), Some(arguments)).with_title(title)
    };
    vec![
        prompt(
            "review",
            "Review code",
            "Review code: list its faults, how severe they are, and how to fix them.",
            vec![
                argument("code", true, "The code, or a diff."),
                argument("focus", false, "The aspect to focus on, such as security."),
            ],
        ),
        prompt(
            "explain",
            "Explain code",
            "Explain what code does and why.",
            vec![
                argument("code", true, "The code."),
                argument("question", false, "A question about the code to answer first."),
            ],
        ),
        prompt(
            "commit_message",
            "Write a commit message",
            "Write a commit message from a diff.",
            vec![argument("diff", true, "The diff, such as the output of `git diff --staged`.")],
        ),
    ]
}

/// One prompt with its arguments filled in.
///
/// # Errors
/// An unknown prompt, or an argument that is missing, unknown or not a string.
pub(super) fn get(request: GetPromptRequestParams) -> Result<GetPromptResult, ErrorData> {
    let name = request.name;
    let all = prompt_list();
    let Some(prompt) = all.iter().find(|prompt| prompt.name == name) else {
        let names: Vec<_> = all.iter().map(|prompt| prompt.name.as_str()).collect();
        let message =
            format!("unknown prompt `{}`; the prompts are {}", truncated(&name), names.join(", "));
        return Err(ErrorData::invalid_params(message, None));
    };
    let given = PromptArguments { prompt, arguments: request.arguments.unwrap_or_default() };
    given.check()?;
    let text = match name.as_str() {
        "review" => review(given.text("code"), given.text("focus")),
        "explain" => explain(given.text("code"), given.text("question")),
        _ => commit_message(given.text("diff")),
    };
    let message = PromptMessage::new_text(Role::User, text);
    let result = GetPromptResult::new(vec![message]);
    Ok(match &prompt.description {
        Some(description) => result.with_description(description),
        None => result,
    })
}

/// The arguments of one request for a prompt.
struct PromptArguments<'a> {
    prompt: &'a Prompt,
    arguments: JsonObject,
}

impl PromptArguments<'_> {
    fn check(&self) -> Result<(), ErrorData> {
        let name = &self.prompt.name;
        let known = self.prompt.arguments.as_deref().unwrap_or_default();
        let refuse = |problem: String| Err(ErrorData::invalid_params(problem, None));
        for (key, value) in &self.arguments {
            if known.iter().all(|argument| argument.name != *key) {
                let names: Vec<_> = known.iter().map(|argument| argument.name.as_str()).collect();
                return refuse(format!(
                    "the prompt `{name}` has no argument `{}`; it has {}",
                    truncated(key),
                    names.join(", ")
                ));
            }
            if !value.is_string() {
                return refuse(format!("`{key}` of the prompt `{name}` must be a string"));
            }
        }
        let is_missing = |argument: &&PromptArgument| {
            argument.required == Some(true) && self.text(&argument.name).is_empty()
        };
        match known.iter().find(is_missing) {
            Some(missing) => {
                refuse(format!("the prompt `{name}` needs `{}`, a string", missing.name))
            }
            None => Ok(()),
        }
    }

    fn text(&self, argument: &str) -> &str {
        self.arguments.get(argument).and_then(Value::as_str).unwrap_or_default()
    }
}

/// Text in a code fence that is longer than any fence in the text.
fn fenced(text: &str) -> String {
    let longest = text.split(|c| c != '`').map(str::len).max().unwrap_or(0);
    let fence = "`".repeat(3.max(longest + 1));
    format!("{fence}\n{}\n{fence}", text.trim_end_matches('\n'))
}

fn review(code: &str, focus: &str) -> String {
    let focus = match focus {
        "" => String::new(),
        focus => format!(" Look at {focus} most."),
    };
    format!(
        "Review this code.{focus} Say what is wrong, the worst first: where it is, what happens \
         because of it, and how to mend it. Then say what could be simpler. Do not praise, and do \
         not repeat the code. If nothing is wrong, say so.\n\n{}",
        fenced(code)
    )
}

fn explain(code: &str, question: &str) -> String {
    let question = match question {
        "" => String::new(),
        question => format!("\n\nAnswer this first: {question}"),
    };
    format!(
        "Explain this code to a programmer who does not know it: what it is for in one sentence, \
         how it works step by step, and what is surprising about it.{question}\n\n{}",
        fenced(code)
    )
}

fn commit_message(diff: &str) -> String {
    format!(
        "Write the commit message of this diff. The first line says what the commit changes, in \
         the imperative, in at most 72 characters and without a full stop. After a blank line, say \
         why in a few lines of at most 72 characters, if the diff lets you know. Give the message \
         only.\n\n{}",
        fenced(diff)
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn of(name: &str, arguments: Value) -> Result<String, ErrorData> {
        let request = json!({ "name": name, "arguments": arguments });
        let result = get(serde_json::from_value(request).unwrap())?;
        let messages = serde_json::to_value(result.messages).unwrap();
        Ok(messages[0]["content"]["text"].as_str().unwrap().to_owned())
    }

    #[test]
    fn prompt_text_contains_its_arguments() {
        let text = of("review", json!({ "code": "let x = 1;\n", "focus": "security" })).unwrap();
        assert!(text.contains("security") && text.ends_with("```\nlet x = 1;\n```"), "{text}");
        let text = of("explain", json!({ "code": "a ```` b" })).unwrap();
        assert!(text.ends_with("`````\na ```` b\n`````"), "{text}");
        assert!(of("commit_message", json!({ "diff": "+ x" })).unwrap().contains("+ x"));
    }

    #[test]
    fn wrong_arguments_are_named() {
        for (name, arguments, named) in [
            ("revue", json!({}), "review, explain, commit_message"),
            ("review", json!({}), "`code`"),
            ("review", json!({ "code": "" }), "`code`"),
            ("review", json!({ "code": 3 }), "must be a string"),
            ("commit_message", json!({ "diff": "x", "patch": "y" }), "`patch`"),
        ] {
            let error = of(name, arguments).unwrap_err();
            assert!(error.message.contains(named), "{error:?}");
        }
    }
}
