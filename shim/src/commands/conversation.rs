//! Conversation on a terminal: `chat` without a prompt.
//!
//! Owns the conversation so far, the commands that begin with `/`, and what Ctrl-C and Ctrl-D do.
//! The daemon keeps nothing of a conversation: each turn sends all of it.

use ingle_client::client::Client;
use ingle_client::exit;
use ingle_protocol::error::ErrorCode;
use ingle_protocol::wire::generate::{GenerateParams, GenerateResult, Message};
use rustyline::error::ReadlineError;
use rustyline::history::{History as _, MemHistory};
use rustyline::{Config, Editor};

use super::generate::{end_answer, end_line, generate, message, params, stats};
use super::models::{PullOffer, is_yes};
use crate::cli::GenerateOptions;
use crate::context::{Context, model_argument};
use crate::history::History;
use crate::output::{Failure, Outcome};

const PROMPT: &str = ">>> ";
const HELP: &str = "\
/clear         clear the conversation
/system TEXT   set the system message; without TEXT, remove it
/model NAME    switch to another model; without NAME, show the present one
/help          show this help
/exit          end the conversation (also Ctrl-D)
Ctrl-C stops an answer.";

type LineEditor = Editor<(), MemHistory>;

/// One conversation.
pub(crate) struct Conversation {
    context: Context,
    client: Option<Client>,
    system: Option<String>,
    options: GenerateOptions,
    /// Questions and answers, without the system message.
    messages: Vec<Message>,
    /// The only reader of the terminal. `None` where there is no terminal, as in tests.
    editor: Option<LineEditor>,
}

/// An input line, read as a command or a question.
#[derive(Debug, PartialEq)]
enum Input<'a> {
    Nothing,
    Clear,
    System(&'a str),
    Model(&'a str),
    Help,
    Exit,
    Unknown(&'a str),
    Question(&'a str),
}

impl<'a> Input<'a> {
    fn read(line: &'a str) -> Self {
        let line = line.trim();
        let (command, rest) = line.split_once(char::is_whitespace).unwrap_or((line, ""));
        match command {
            "" => Self::Nothing,
            "/clear" => Self::Clear,
            "/system" => Self::System(rest.trim()),
            "/model" => Self::Model(rest.trim()),
            "/help" | "/?" => Self::Help,
            "/exit" | "/quit" | "/bye" => Self::Exit,
            // A path or a comment can begin with a slash too; a single word is more likely a typo.
            _ if command.starts_with('/') && rest.is_empty() => Self::Unknown(command),
            _ => Self::Question(line),
        }
    }
}

impl Conversation {
    /// A conversation that has not begun.
    pub(crate) fn new(context: Context, system: Option<String>, options: GenerateOptions) -> Self {
        Self { context, client: None, system, options, messages: Vec::new(), editor: None }
    }

    /// Runs the conversation until the user ends it.
    pub(crate) async fn run(mut self) -> Outcome {
        // A daemon that cannot run is reported before the first question is typed.
        self.client = Some(self.context.connect().await?);
        let history = History::new(self.context.paths.chat_history());
        self.editor = Some(editor(&history)?);
        self.context.output.note("Ctrl-D ends the conversation, /help shows the commands.");
        loop {
            let line = match self.read_line(PROMPT.to_owned()).await? {
                Ok(line) => line,
                Err(ReadlineError::Interrupted) => continue,
                Err(ReadlineError::Eof) => return Ok(exit::OK),
                Err(error) => return Err(std::io::Error::other(error).into()),
            };
            if line.trim().is_empty() {
                continue;
            }
            // An unwritable history must not end the conversation.
            if let Some(editor) = &mut self.editor {
                let _ = (editor.add_history_entry(&line), history.add(&line));
            }
            if self.execute(Input::read(&line)).await? == Flow::End {
                return Ok(exit::OK);
            }
        }
    }

    /// Reads a line from the terminal, on a thread, because the editor blocks. The future must not
    /// be dropped: the thread would continue to read, against the next reader.
    async fn read_line(&mut self, prompt: String) -> Result<rustyline::Result<String>, Failure> {
        let Some(mut editor) = self.editor.take() else { return Ok(Err(ReadlineError::Eof)) };
        let (editor, line) = tokio::task::spawn_blocking(move || {
            let line = editor.readline(&prompt);
            (editor, line)
        })
        .await
        .map_err(std::io::Error::other)?;
        self.editor = Some(editor);
        Ok(line)
    }

    async fn execute(&mut self, input: Input<'_>) -> Result<Flow, Failure> {
        match input {
            Input::Nothing => {}
            Input::Clear => {
                self.messages.clear();
                self.context.output.note("cleared");
            }
            Input::System(text) => {
                self.system = (!text.is_empty()).then(|| text.to_owned());
                self.context.output.note(if text.is_empty() {
                    "system message removed"
                } else {
                    "system message set"
                });
            }
            Input::Model("") => {
                let model = self.options.model.as_deref().unwrap_or("the default model");
                self.context.output.note(model);
            }
            Input::Model(name) => {
                self.options.model = Some(name.to_owned());
                self.context.output.note(&format!("the model is now {name}"));
            }
            Input::Help => self.context.output.note(HELP),
            Input::Exit => return Ok(Flow::End),
            Input::Unknown(command) => {
                self.context.output.note(&format!("error: there is no command `{command}`"));
                self.context.output.note("hint: /help shows all commands.");
            }
            Input::Question(question) => self.ask(question).await?,
        }
        Ok(Flow::GoOn)
    }

    /// Asks one question. A partial answer stays in the conversation; a question without an answer
    /// does not.
    async fn ask(&mut self, question: &str) -> Result<(), Failure> {
        self.messages.push(message("user", question.to_owned()));
        let mut text = String::new();
        let result = match until_stopped(self.answer(&mut text)).await {
            Some(Err(failure)) if text.is_empty() => self.pull_and_answer(failure, &mut text).await,
            result => result,
        };
        if !matches!(result, Some(Ok(_))) {
            end_line(&mut self.context.output, &text)?;
        }
        if text.is_empty() && !matches!(result, Some(Ok(_))) {
            self.messages.pop();
        } else {
            self.messages.push(message("assistant", text.clone()));
        }
        match result {
            None => self.context.output.note("(stopped)"),
            Some(Ok(result)) => {
                end_answer(&mut self.context.output, &result, &text)?;
                if self.options.stats {
                    self.context.output.note(&stats(&result));
                }
            }
            Some(Err(Failure::Error { body, .. })) => self.context.output.error(&body),
            Some(Err(closed)) => return Err(closed),
        }
        Ok(())
    }

    async fn answer(&mut self, text: &mut String) -> Result<GenerateResult, Failure> {
        let system = self.system.clone().map(|text| message("system", text));
        let messages = system.into_iter().chain(self.messages.iter().cloned()).collect();
        let params = GenerateParams { messages: Some(messages), ..params(&self.options) };
        match self.try_answer(&params, text).await {
            // The daemon may have been stopped since the last question. No part of this answer was
            // shown, so the request can be repeated unnoticed.
            Err(failure) if text.is_empty() && is_gone(&failure) => {
                self.client = None;
                self.try_answer(&params, text).await
            }
            Err(failure) if is_gone(&failure) => {
                self.client = None;
                Err(failure)
            }
            result => result,
        }
    }

    /// Offers to pull a missing model, and asks again. `None` when the user stops that.
    async fn pull_and_answer(
        &mut self,
        failure: Failure,
        text: &mut String,
    ) -> Option<Result<GenerateResult, Failure>> {
        let Some(client) = self.client.clone() else { return Some(Err(failure)) };
        let model = self.options.model.as_deref().map(model_argument);
        let offer = match until_stopped(PullOffer::of(&client, &failure, model.as_deref())).await? {
            Ok(Some(offer)) => offer,
            Ok(None) => return Some(Err(failure)),
            Err(failure) => return Some(Err(failure)),
        };
        // Not inside `until_stopped`: the editor handles Ctrl-C itself.
        let agreed = self.options.yes
            || match self.read_line(offer.question()).await {
                Ok(answer) => answer.is_ok_and(|answer| is_yes(&answer)),
                Err(failure) => return Some(Err(failure)),
            };
        if !agreed {
            return Some(Err(offer.declined(failure)));
        }
        until_stopped(async {
            offer.accept(&client).await?;
            self.answer(text).await
        })
        .await
    }

    async fn try_answer(
        &mut self,
        params: &GenerateParams,
        text: &mut String,
    ) -> Result<GenerateResult, Failure> {
        let client = match &self.client {
            Some(client) => client.clone(),
            None => self.client.insert(self.context.connect().await?).clone(),
        };
        generate(&mut self.context.output, &client, params, text).await
    }
}

/// Runs `work` unless Ctrl-C stops it. Dropping a call cancels its request.
async fn until_stopped<T>(work: impl Future<Output = T>) -> Option<T> {
    tokio::select! {
        done = work => Some(done),
        _ = tokio::signal::ctrl_c() => None,
    }
}

#[derive(Debug, PartialEq)]
enum Flow {
    GoOn,
    End,
}

fn is_gone(failure: &Failure) -> bool {
    matches!(failure.code(), Some(ErrorCode::DaemonLost | ErrorCode::ShuttingDown))
}

fn editor(history: &History) -> Result<LineEditor, Failure> {
    let config = Config::builder().auto_add_history(false).build();
    let past = MemHistory::with_config(&config);
    let mut editor = Editor::with_history(config, past).map_err(std::io::Error::other)?;
    for line in history.load() {
        // Only a line too many, or a repeated one, is refused.
        let _ = editor.history_mut().add(&line);
    }
    Ok(editor)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fake_daemon;
    use crate::output::tests::Captured;
    use ingle_protocol::error::ErrorBody;
    use ingle_protocol::wire::Method;
    use ingle_protocol::wire::status::{Shutdown, ShutdownParams};
    use serde_json::json;

    /// A conversation with a daemon that answers with the messages it was sent, except for `fail`.
    fn conversation() -> (Conversation, fake_daemon::TestHome, Captured, Captured) {
        let (context, home, out, err) = fake_daemon::context(false);
        fake_daemon::serve(&context.paths, |method, params| {
            if method == Shutdown::NAME {
                return (Vec::new(), Ok(json!({ "pid": 42, "active": 0 })));
            }
            let messages = params["messages"].as_array().unwrap();
            let contents: Vec<&str> =
                messages.iter().map(|message| message["content"].as_str().unwrap()).collect();
            if contents.last() == Some(&"fail") {
                let error = ErrorBody::new(ErrorCode::EngineFailed, "it broke");
                return (Vec::new(), Err(error));
            }
            let text = contents.join("+");
            let event = json!({ "type": "delta", "text": text });
            (vec![event], Ok(fake_daemon::generated(&text)))
        });
        (Conversation::new(context, None, GenerateOptions::default()), home, out, err)
    }

    #[tokio::test]
    async fn each_turn_sends_the_whole_conversation() {
        let (mut conversation, _home, out, _) = conversation();
        for line in ["a", "/system s", "b", "/clear", "/system", "c"] {
            assert_eq!(conversation.execute(Input::read(line)).await.unwrap(), Flow::GoOn);
        }
        assert_eq!(out.text(), "a\ns+a+a+b\nc\n");
    }

    #[tokio::test]
    async fn unanswered_question_is_forgotten() {
        let (mut conversation, _home, out, err) = conversation();
        for line in ["fail", "b"] {
            conversation.execute(Input::read(line)).await.unwrap();
        }
        assert_eq!(out.text(), "b\n");
        assert!(err.text().starts_with("error: it broke\nhint: "), "{}", err.text());
    }

    #[tokio::test]
    async fn stopped_daemon_between_questions_goes_unnoticed() {
        let (mut conversation, _home, out, _) = conversation();
        conversation.execute(Input::read("a")).await.unwrap();
        let client = conversation.client.clone().unwrap();
        // The fake daemon closes the connection after this.
        let _ = client.call::<Shutdown>(&ShutdownParams::default()).await;
        client.closed().await;
        conversation.execute(Input::read("b")).await.unwrap();
        assert_eq!(out.text(), "a\na+a+b\n");
    }

    #[test]
    fn commands_differ_from_questions() {
        assert_eq!(Input::read("  "), Input::Nothing);
        assert_eq!(Input::read("/system  be brief "), Input::System("be brief"));
        assert_eq!(Input::read("/model"), Input::Model(""));
        assert_eq!(Input::read("/exti"), Input::Unknown("/exti"));
        assert_eq!(Input::read("/usr/bin is what?"), Input::Question("/usr/bin is what?"));
        assert_eq!(Input::read("/exit"), Input::Exit);
        assert_eq!(Input::read("hello"), Input::Question("hello"));
    }
}
