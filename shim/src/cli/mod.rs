//! The command line: names, options, help.
//!
//! Owns what can be typed and how it is explained. Must not do anything.

mod bench;
mod format;
mod generate;
mod jobs;
mod mcp;
mod models;
mod value;

use std::time::Duration;

use clap::{Parser, Subcommand};
use ingle_protocol::timeouts::Class;
use ingle_protocol::wire::models::EngineKind;

pub(crate) use self::bench::BenchOptions;
pub(crate) use self::generate::{Gap, GenerateOptions, Thinking};
pub(crate) use self::jobs::{CreateOptions, JobsCommand};
pub(crate) use self::mcp::{HostOptions, InstallOptions, McpCommand, UninstallOptions};
pub(crate) use self::models::LoadOptions;
use self::value::duration;

/// The exit codes, as `ingle --help` shows them. They are `ingle_client::exit`.
const AFTER_HELP: &str = "\
Examples:
  ingle chat \"Why is the sky blue?\"    answer one question
  ingle chat                           talk, with history
  ingle models --json                  list the models for a script

The daemon `ingled` is started when it is needed, and keeps its models warm. Everything lives in
~/.ingle; INGLE_HOME and INGLE_SOCKET name other places.

Exit codes:
    0  all went well
    1  the request was understood and failed
    2  the command line was wrong
   69  the daemon could not be reached or started; `ingle status`: it does not run
   70  a bug
   73  a file or socket could not be made
   77  a folder or socket belongs to somebody else
   78  a setting is wrong
  130  ended by Ctrl-C

An error is printed on standard error as `error: ...` and `hint: ...`; with --json it is an object
`{\"error\": {\"code\", \"message\", \"remediation\", \"retryable\", ...}}` on standard output instead.";

/// Talk to language models that stay warm.
#[derive(Debug, Parser)]
#[command(name = "ingle", version, after_help = AFTER_HELP, max_term_width = 100)]
#[command(disable_help_subcommand = true)]
pub(crate) struct Cli {
    /// Print data, and errors, as JSON on standard output
    #[arg(long, global = true)]
    pub(crate) json: bool,

    /// What to do.
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Ask one question, or talk
    #[command(after_help = "\
Examples:
  ingle chat \"Why is the sky blue?\"
  ingle chat --system \"Answer in one word.\" \"Capital of France?\"
  git diff | ingle chat \"Write a commit message for:\" -
  ingle chat --no-think --model qwen3 \"Capital of France?\"
  ingle chat --json --seed 7 --temperature 0.8 \"A haiku\" | jq -r .text
  ingle chat --schema person.json \"Invent a person\" | jq .name
  ingle chat

Without a prompt, on a terminal, this is a conversation: /help names its commands, Ctrl-C stops an
answer, Ctrl-D ends it. Elsewhere the prompt is read from standard input.")]
    Chat {
        /// What to ask; `-` stands for standard input
        prompt: Vec<String>,
        /// Tell the model how to behave
        #[arg(long, value_name = "TEXT")]
        system: Option<String>,
        #[command(flatten)]
        thinking: Thinking,
        #[command(flatten)]
        options: GenerateOptions,
    },
    /// Continue a raw prompt, without a chat template
    #[command(after_help = "\
Examples:
  ingle complete \"Once upon a time\" --max-tokens 40
  ingle complete - < prompt.txt
  ingle complete \"1, 2, 3,\" --stop 7 --stats
  ingle complete \"Three colours as JSON:\" --format json
  ingle complete \"My cat is called\" --temperature 1 -n 3 --max-tokens 8
  ingle complete \"The capital of \" --suffix \" is Rome.\" --model qwen2.5-coder

With --suffix the text is one with a gap, which models trained on such code fill.")]
    Complete {
        /// The text to continue; `-`, or none where standard input is no terminal, reads it there
        prompt: Option<String>,
        #[command(flatten)]
        gap: Gap,
        #[command(flatten)]
        options: GenerateOptions,
    },
    /// Turn texts into vectors, with an embedding model
    #[command(after_help = "\
Examples:
  ingle embed --model minilm \"a campfire\" \"warm light in the woods\"
  ingle embed --model ./bge-small.gguf --json < lines.txt | jq .dimensions

Prints one vector a line, of length 1: the dot product of two is their similarity.")]
    Embed {
        /// The texts; the lines of standard input when there are none
        texts: Vec<String>,
        /// Name or path of the embedding model; the default model when absent
        #[arg(long, short)]
        model: Option<String>,
        /// The engine to run it on, where its format leaves a choice
        #[arg(long, value_name = "gguf|mlx")]
        engine: Option<EngineKind>,
        /// Cut texts that are too long for the model instead of refusing them
        #[arg(long)]
        truncate: bool,
    },
    /// Fetch a model
    #[command(after_help = "\
Examples:
  ingle pull smollm2
  ingle pull mlx-community/Qwen3-0.6B-4bit         safetensors of Hugging Face
  ingle pull bartowski/Qwen_Qwen3-0.6B-GGUF:Q8_0   one of its GGUF files
  ingle pull org/name@main                         the newest commit, if there is a newer one
  ingle pull ./my-model.gguf --name mine

Two pulls of one model are one download. One from Hugging Face that was interrupted is gone on with
by the next; HF_TOKEN, or a login with `hf auth login`, opens gated models. What Hugging Face's own
programs or LM Studio have fetched need not be fetched again.")]
    Pull {
        /// A name from `ingle models`, `org/name[:choice][@revision]` on Hugging Face, or the path
        /// of a GGUF file or model folder
        model: String,
        /// The name to give the model
        #[arg(long)]
        name: Option<String>,
    },
    /// List the models that are here or can be fetched
    #[command(after_help = "\
Examples:
  ingle models
  ingle models --json | jq -r '.models[].name'

Models in the folders of Hugging Face's programs and of LM Studio are listed with where they are
from; they are used as they are, and never changed. Without a running daemon only the models on disk are listed.")]
    Models,
    /// List the models in memory
    #[command(after_help = "\
Examples:
  ingle ps
  ingle ps --json

Exits with 0 whether or not the daemon runs: without one, nothing is in memory.")]
    Ps,
    /// Show how the daemon is
    #[command(after_help = "\
Examples:
  ingle status
  ingle status --json | jq .health.state

Exits with 69 when the daemon does not run; it is not started.")]
    Status,
    /// Print the daemon's metrics, as Prometheus reads them
    #[command(after_help = "\
Examples:
  ingle metrics
  ingle metrics | grep ^ingle_timeouts_total
  ingle metrics --json | jq '.families[] | select(.name == \"ingle_queue_depth\")'

The same text is served over HTTP under /metrics. Exits with 69 when the daemon does not run.")]
    Metrics,
    /// Load a model into memory
    #[command(after_help = "\
Examples:
  ingle load
  ingle load smollm2 --keep-alive 2h
  ingle load smollm2 --pin
  ingle load --estimate smollm2

A pinned model is never evicted and never expires; `ingle unload` works on it all the same. For a
model in memory already, --pin, --no-pin and --keep-alive change how long it stays.")]
    Load(LoadOptions),
    /// Drop a model from memory
    #[command(after_help = "\
Examples:
  ingle unload smollm2")]
    Unload {
        /// The model; the default one when absent
        model: Option<String>,
    },
    /// Work that goes on without a connection
    #[command(after_help = "\
Examples:
  ingle jobs create \"Write a long story\" --timeout 10m
  ingle jobs list
  ingle jobs wait j-4x2m8c1qf7zk

A job outlives whoever started it, and its result a restart of the daemon.")]
    #[command(disable_help_subcommand = true)]
    Jobs {
        /// What to do.
        #[command(subcommand)]
        command: JobsCommand,
    },
    /// Measure how quick a model is
    #[command(after_help = "\
Examples:
  ingle bench
  ingle bench smollm2 --cold
  ingle bench --prompt-tokens 2000 --gen-tokens 32 --concurrency 1,2,4
  ingle bench --json | jq '.results[0].decode_tokens_per_s.median'

Figures are the daemon's own timings of whole requests, as every user of it has them. Each prompt is
new, so that the prompt cache does not answer for the model; one round more than asked for is run
first and not counted. FIRST TOKEN is from a request's acceptance to its first token, waiting for a
slot included; PROMPT and DECODE are the rates of one request. ALL PROMPTS is the rate of those that
ran at once until the last had its first token, ALL OUTPUT their generated tokens over the whole time.

The model stays loaded afterwards. Other models are left alone, unless there is no room for this one
beside them; --cold drops this one first, if nobody uses it, and measures its load from disk (which
the system may have cached). Other generations meanwhile spoil the figures, and are told of.")]
    Bench(BenchOptions),
    /// Show where the daemon speaks HTTP, in the shape of OpenAI's API
    #[command(after_help = "\
Examples:
  ingle http
  eval \"$(ingle http --show-token)\"     sets OPENAI_BASE_URL and OPENAI_API_KEY
  curl --unix-socket ~/.ingle/run/http.sock http://localhost/v1/models

The Unix socket is always there, for you alone. TCP is off until config.toml says where to listen:
  [http]
  listen = \"127.0.0.1:11711\"
It wants the token in ~/.ingle/http.token.")]
    Http {
        /// Print the token, as lines that a shell can evaluate
        #[arg(long)]
        show_token: bool,
    },
    /// End the daemon
    #[command(after_help = "\
Examples:
  ingle stop          finish what is in flight first
  ingle stop --now    cancel it

Returns when the daemon has ended. Exits with 0 when none was running.")]
    Stop {
        /// Cancel what is in flight instead of finishing it
        #[arg(long)]
        now: bool,
    },
    /// End the daemon and start it again, so that it reads its settings anew
    #[command(after_help = "\
Examples:
  ingle restart          finish what is in flight first
  ingle restart --now    cancel it

Starts the daemon if none was running. Models are loaded again when they are needed.")]
    Restart {
        /// Cancel what is in flight instead of finishing it
        #[arg(long)]
        now: bool,
    },
    /// Show and check the time limits
    #[command(after_help = "\
Examples:
  ingle timeouts
  ingle timeouts --class chat
  ingle timeouts --json | jq .infrastructure_timeouts.daemon
  WORKFLOW_TOOL_TIMEOUT_SECS=600 ingle timeouts      try a setting out

All in seconds. WORK is what a class of work may take; the other columns follow from it and cannot
be set: the daemon answers at 1.5 x WORK, the shim at 2 x, the client library at 2.5 x.

Settings, the strongest first: the environment, ~/.ingle/.env, [timeouts] in ~/.ingle/config.toml.
A setting is called timeouts.chat in the file and INGLE_TIMEOUT_CHAT as a variable. These names
work as well:
  SIMPLE_TOOL_TIMEOUT_SECS                 timeouts.simple
  WORKFLOW_TOOL_TIMEOUT_SECS               timeouts.workflow
  EXPERT_ANALYSIS_TIMEOUT_SECS             timeouts.expert_analysis
  MLX_SERVER_TIMEOUT_CHAT_SECONDS          timeouts.chat
  MLX_SERVER_TIMEOUT_COMPLETIONS_SECONDS   timeouts.completions
  MLX_SERVER_TIMEOUT_EMBEDDINGS_SECONDS    timeouts.embeddings
  GLM_TIMEOUT_SECS                         timeouts.upstream_glm
  KIMI_TIMEOUT_SECS                        timeouts.upstream_kimi
  KIMI_WEB_SEARCH_TIMEOUT_SECS             timeouts.upstream_kimi_web_search
  EX_HTTP_TIMEOUT_SECONDS                  timeouts.http

What is shown is what a daemon started from here would use. What counts is what the running daemon
has read when it started; where that differs, a warning says so.
Exits with 78 when a setting is wrong, or the numbers do not fit together.")]
    Timeouts {
        /// Show this class only: simple, workflow, expert_analysis, chat, completions, embeddings,
        /// job
        #[arg(long, value_name = "CLASS", value_parser = class)]
        class: Option<Class>,
    },
    /// Show the daemon's log
    #[command(after_help = "\
Examples:
  ingle logs -n 100
  ingle logs -f")]
    Logs {
        /// Lines to show
        #[arg(short = 'n', long = "lines", value_name = "N", default_value_t = 50)]
        lines: usize,
        /// Go on as the log grows
        #[arg(short, long)]
        follow: bool,
    },
    /// Connect standard input and output to the daemon: JSON-RPC
    #[command(after_help = "\
Examples:
  echo '{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"status\"}' | ingle rpc

One JSON-RPC 2.0 message a line. When standard input ends, answers still due are awaited.")]
    Rpc,
    /// Be an MCP server on standard input and output, or set one up in a host
    #[command(after_help = "\
Examples:
  ingle mcp install --host claude-code    tell a host of it: claude-desktop, claude-code, cursor, zed, vscode
  ingle mcp hosts                         which of them are here
  {\"mcpServers\": {\"ingle\": {\"command\": \"ingle\", \"args\": [\"mcp\"]}}}

Without a command, it is what a tool host spawns. Many of these share one daemon and one copy of
each model. A call that is not finished shortly before the host would give it up answers with the id
of a job that goes on; the tool job_wait gets its result.")]
    #[command(disable_help_subcommand = true)]
    Mcp {
        /// How long the host waits for one reply, such as 60s or 5m [default: 60s]
        #[arg(long, value_name = "TIME", value_parser = duration)]
        host_timeout: Option<Duration>,
        /// What to do instead of being one.
        #[command(subcommand)]
        command: Option<McpCommand>,
    },
}

fn class(text: &str) -> Result<Class, String> {
    Class::named(&text.replace('-', "_"))
        .ok_or_else(|| format!("must be one of {}", Class::ALL.map(Class::as_str).join(", ")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;
    use ingle_client::exit;

    fn parse(words: &[&str]) -> Result<Cli, clap::Error> {
        Cli::try_parse_from(std::iter::once(&"ingle").chain(words))
    }

    #[test]
    fn the_command_line_is_sound() {
        Cli::command().debug_assert();
    }

    #[test]
    fn every_command_shows_examples() {
        let cli = Cli::command();
        let nested = cli.get_subcommands().flat_map(clap::Command::get_subcommands);
        for command in cli.get_subcommands().chain(nested) {
            let help = command.get_after_help().map(ToString::to_string).unwrap_or_default();
            assert!(help.contains("Examples:"), "{}", command.get_name());
        }
    }

    #[test]
    fn every_exit_code_is_explained() {
        for code in [
            exit::OK,
            exit::FAILED,
            exit::USAGE,
            exit::UNAVAILABLE,
            exit::INTERNAL,
            exit::CANNOT_CREATE,
            exit::NO_PERMISSION,
            exit::CONFIG,
            exit::INTERRUPTED,
        ] {
            assert!(AFTER_HELP.contains(&format!("\n{code:>5}  ")), "{code}");
        }
    }

    #[test]
    fn options_may_stand_before_and_after_the_prompt() {
        let cli = parse(&["chat", "--seed", "3", "why", "is", "it", "--json", "--stop", "a"]);
        let cli = cli.unwrap();
        let Command::Chat { prompt, options, .. } = cli.command else { panic!("not chat") };
        assert!(cli.json);
        assert_eq!(prompt, ["why", "is", "it"]);
        assert_eq!((options.seed, options.stop), (Some(3), vec!["a".to_owned()]));
    }

    #[test]
    fn the_last_word_on_thinking_counts() {
        for (words, wish) in [
            (&["chat", "x"][..], None),
            (&["chat", "x", "--think"], Some(true)),
            (&["chat", "x", "--think", "--no-think"], Some(false)),
        ] {
            let Command::Chat { thinking, .. } = parse(words).unwrap().command else { panic!() };
            assert_eq!(thinking.wish(), wish, "{words:?}");
        }
        assert!(parse(&["complete", "x", "--suffix", "a", "--suffix-file", "b"]).is_err());
    }

    #[test]
    fn figures_out_of_range_are_refused_as_usage() {
        for words in [
            &["chat", "--top-p", "1.5", "x"][..],
            &["chat", "--temperature", "nan", "x"],
            &["complete", "--max-tokens", "0", "x"],
            &["complete", "--repetition-penalty", "0", "x"],
            &["complete", "--presence-penalty", "-2.5", "x"],
            &["complete", "--logit-bias", "the=5", "x"],
            &["complete", "--logit-bias", "5=101", "x"],
            &["complete", "-n", "0", "x"],
            &["complete", "--timeout", "-1", "x"],
            &["nonsense"],
        ] {
            assert_eq!(parse(words).unwrap_err().exit_code(), i32::from(exit::USAGE), "{words:?}");
        }
        let words = ["complete", "x", "--timeout", "0.5", "--frequency-penalty", "-1"];
        let cli = parse(&[&words[..], &["--logit-bias", "5=-1.5"]].concat()).unwrap();
        let Command::Complete { options, .. } = cli.command else { panic!("not complete") };
        assert_eq!(options.timeout, Some(Duration::from_millis(500)));
        assert_eq!(
            (options.frequency_penalty, &options.logit_bias[..]),
            (Some(-1.0), &[(5, -1.5)][..])
        );
    }
}
