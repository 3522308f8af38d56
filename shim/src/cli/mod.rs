//! The command line: commands, options and help.
//!
//! Owns the syntax and its explanation. Runs nothing.

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
  ingle chat                           hold a conversation
  ingle models --json                  list the models for a script

The daemon `ingled` is started on demand, and keeps models loaded. All files are in ~/.ingle;
INGLE_HOME and INGLE_SOCKET set other paths.

Exit codes:
    0  success
    1  the request failed
    2  the command line was wrong
   69  the daemon could not be reached or started; `ingle status`: it is not running
   70  a bug
   73  a file or socket could not be created
   77  a folder or socket belongs to another user
   78  a setting is wrong
  130  ended by Ctrl-C

Errors are printed on standard error as `error: ...` and `hint: ...`; with --json as an object
`{\"error\": {\"code\", \"message\", \"remediation\", \"retryable\", ...}}` on standard output.";

/// Run language models that stay loaded.
#[derive(Debug, Parser)]
#[command(name = "ingle", version, after_help = AFTER_HELP, max_term_width = 100)]
#[command(disable_help_subcommand = true)]
pub(crate) struct Cli {
    /// Print data and errors as JSON on standard output
    #[arg(long, global = true)]
    pub(crate) json: bool,

    /// The command.
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// The commands.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Ask one question, or hold a conversation
    #[command(after_help = "\
Examples:
  ingle chat \"Why is the sky blue?\"
  ingle chat --system \"Answer in one word.\" \"Capital of France?\"
  git diff | ingle chat \"Write a commit message for:\" -
  ingle chat --no-think --model qwen3 \"Capital of France?\"
  ingle chat --json --seed 7 --temperature 0.8 \"A haiku\" | jq -r .text
  ingle chat --schema person.json \"Invent a person\" | jq .name
  ingle chat

Without a prompt on a terminal, this is a conversation: /help lists its commands, Ctrl-C stops an
answer, Ctrl-D ends the conversation. Otherwise the prompt is read from standard input.")]
    Chat {
        /// The question; `-` stands for standard input
        prompt: Vec<String>,
        /// System message: instructions for the model
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

With --suffix the model fills the gap between prompt and suffix; it must be trained for that.")]
    Complete {
        /// The text to continue; `-` stands for standard input, which is also read when absent
        prompt: Option<String>,
        #[command(flatten)]
        gap: Gap,
        #[command(flatten)]
        options: GenerateOptions,
    },
    /// Compute embeddings of texts
    #[command(after_help = "\
Examples:
  ingle embed --model minilm \"a campfire\" \"warm light in the woods\"
  ingle embed --model ./bge-small.gguf --json < lines.txt | jq .dimensions

Prints one vector of length 1 per line: the dot product of two is their similarity.")]
    Embed {
        /// The texts; the lines of standard input when absent
        texts: Vec<String>,
        /// Name or path of the embedding model; the default model when absent
        #[arg(long, short)]
        model: Option<String>,
        /// The engine to run it on, where its format allows several
        #[arg(long, value_name = "gguf|mlx")]
        engine: Option<EngineKind>,
        /// Truncate texts that are too long for the model instead of refusing them
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

Concurrent pulls of one model share one download. An interrupted download from Hugging Face is
resumed by the next pull. Gated models need HF_TOKEN or a login with `hf auth login`. Models that
Hugging Face's own programs or LM Studio have fetched are used without another download.")]
    Pull {
        /// A name from `ingle models`, `org/name[:choice][@revision]` on Hugging Face, or the path
        /// of a GGUF file or model folder
        model: String,
        /// The name to give the model
        #[arg(long)]
        name: Option<String>,
    },
    /// List the models that are on disk or can be fetched
    #[command(after_help = "\
Examples:
  ingle models
  ingle models --json | jq -r '.models[].name'

Models in the folders of Hugging Face's programs and of LM Studio are listed with their source; they
are used in place, and never changed. Without a running daemon only models on disk are listed.")]
    Models,
    /// List the models in memory
    #[command(after_help = "\
Examples:
  ingle ps
  ingle ps --json

Exits with 0 whether or not the daemon runs: without it no model is in memory.")]
    Ps,
    /// Show the status of the daemon
    #[command(after_help = "\
Examples:
  ingle status
  ingle status --json | jq .health.state

Exits with 69 when the daemon is not running; it is not started.")]
    Status,
    /// Print the daemon's metrics in Prometheus format
    #[command(after_help = "\
Examples:
  ingle metrics
  ingle metrics | grep ^ingle_timeouts_total
  ingle metrics --json | jq '.families[] | select(.name == \"ingle_queue_depth\")'

The same text is served over HTTP under /metrics. Exits with 69 when the daemon is not running.")]
    Metrics,
    /// Load a model into memory
    #[command(after_help = "\
Examples:
  ingle load
  ingle load smollm2 --keep-alive 2h
  ingle load smollm2 --pin
  ingle load --estimate smollm2

A pinned model is never evicted and never expires; `ingle unload` still unloads it. On a loaded
model, --pin, --no-pin and --keep-alive change its settings.")]
    Load(LoadOptions),
    /// Unload a model from memory
    #[command(after_help = "\
Examples:
  ingle unload smollm2")]
    Unload {
        /// The model; the default one when absent
        model: Option<String>,
    },
    /// Run generations and embeddings in the background
    #[command(after_help = "\
Examples:
  ingle jobs create \"Write a long story\" --timeout 10m
  ingle jobs list
  ingle jobs wait j-4x2m8c1qf7zk

A job outlives the program that created it, and its result a restart of the daemon.")]
    #[command(disable_help_subcommand = true)]
    Jobs {
        /// The command.
        #[command(subcommand)]
        command: JobsCommand,
    },
    /// Measure the speed of a model
    #[command(after_help = "\
Examples:
  ingle bench
  ingle bench smollm2 --cold
  ingle bench --prompt-tokens 2000 --gen-tokens 32 --concurrency 1,2,4
  ingle bench --json | jq '.results[0].decode_tokens_per_s.median'

Measures time to first token, prefill and decode throughput, with one and with two clients. The
figures are the daemon's own timings of whole requests. Each prompt is new, so that the prompt cache
does not help; one warm-up round runs first and is not counted. FIRST TOKEN is from the acceptance
of a request to its first token, queueing included; PROMPT and DECODE are the prefill and decode
rates of one request. ALL PROMPTS is the prefill rate of all concurrent requests until the last has
its first token, ALL OUTPUT the rate of all their generated tokens over the whole round.

The model stays loaded afterwards. Other models stay loaded unless their memory is needed. --cold
unloads this model first, if it is idle, and measures its load from disk (which the system may have
cached). Other generations during the measurement distort it; a warning reports them.")]
    Bench(BenchOptions),
    /// Show the address of the daemon's OpenAI-compatible HTTP API
    #[command(after_help = "\
Examples:
  ingle http
  eval \"$(ingle http --show-token)\"     sets OPENAI_BASE_URL and OPENAI_API_KEY
  curl --unix-socket ~/.ingle/run/http.sock http://localhost/v1/models

The Unix socket is always available, to you alone. TCP is off until config.toml has an address:
  [http]
  listen = \"127.0.0.1:11711\"
Over TCP, requests need the bearer token in ~/.ingle/http.token.")]
    Http {
        /// Print address and token as lines that a shell can evaluate
        #[arg(long)]
        show_token: bool,
    },
    /// Stop the daemon
    #[command(after_help = "\
Examples:
  ingle stop          finish requests in flight first
  ingle stop --now    cancel them

Returns when the daemon has ended. Exits with 0 when it was not running.")]
    Stop {
        /// Cancel requests in flight instead of finishing them
        #[arg(long)]
        now: bool,
    },
    /// Restart the daemon, so that it reads its settings again
    #[command(after_help = "\
Examples:
  ingle restart          finish requests in flight first
  ingle restart --now    cancel them

Starts the daemon if it was not running. Models are loaded again on demand.")]
    Restart {
        /// Cancel requests in flight instead of finishing them
        #[arg(long)]
        now: bool,
    },
    /// Show and check the timeouts
    #[command(after_help = "\
Examples:
  ingle timeouts
  ingle timeouts --class chat
  ingle timeouts --json | jq .infrastructure_timeouts.daemon
  WORKFLOW_TOOL_TIMEOUT_SECS=600 ingle timeouts      try a setting

All values are in seconds. WORK is the limit of a class of work; the other columns are derived from
it and cannot be set: the daemon answers at 1.5 x WORK, the shim at 2 x, the client library at 2.5
x.

Settings, the strongest first: the environment, ~/.ingle/.env, [timeouts] in ~/.ingle/config.toml.
A setting is called timeouts.chat in the file and INGLE_TIMEOUT_CHAT as a variable. These variables
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

This shows the timeouts of a daemon started from this shell. The running daemon uses the settings of
its start; a warning reports differences.
Exits with 78 when a setting is invalid, or the values contradict each other.")]
    Timeouts {
        /// Only this class: simple, workflow, expert_analysis, chat, completions, embeddings or job
        #[arg(long, value_name = "CLASS", value_parser = class)]
        class: Option<Class>,
    },
    /// Show the daemon's log
    #[command(after_help = "\
Examples:
  ingle logs -n 100
  ingle logs -f")]
    Logs {
        /// Number of lines to show
        #[arg(short = 'n', long = "lines", value_name = "N", default_value_t = 50)]
        lines: usize,
        /// Follow the log as it grows
        #[arg(short, long)]
        follow: bool,
    },
    /// Connect standard input and output to the daemon's JSON-RPC
    #[command(after_help = "\
Examples:
  echo '{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"status\"}' | ingle rpc

One JSON-RPC 2.0 message per line. At the end of standard input, pending replies are awaited.")]
    Rpc,
    /// Run as an MCP server on standard input and output, or add it to a host
    #[command(after_help = "\
Examples:
  ingle mcp install --host claude-code    or claude-desktop, cursor, zed, vscode
  ingle mcp hosts                         list the hosts on this machine
  {\"mcpServers\": {\"ingle\": {\"command\": \"ingle\", \"args\": [\"mcp\"]}}}

Without a command it is the server that a tool host spawns. All of these share one daemon and one
copy of each model. A call that is not finished shortly before the host's timeout continues as a
job: its reply is the id of the job, and the tool job_wait gets the result.")]
    #[command(disable_help_subcommand = true)]
    Mcp {
        /// The host's timeout for one reply, such as 60s or 5m [default: 60s]
        #[arg(long, value_name = "TIME", value_parser = duration)]
        host_timeout: Option<Duration>,
        /// The command to run instead of the server.
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
    fn command_line_is_consistent() {
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
    fn options_precede_and_follow_the_prompt() {
        let cli = parse(&["chat", "--seed", "3", "why", "is", "it", "--json", "--stop", "a"]);
        let cli = cli.unwrap();
        let Command::Chat { prompt, options, .. } = cli.command else { panic!("not chat") };
        assert!(cli.json);
        assert_eq!(prompt, ["why", "is", "it"]);
        assert_eq!((options.seed, options.stop), (Some(3), vec!["a".to_owned()]));
    }

    #[test]
    fn last_thinking_option_wins() {
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
    fn values_out_of_range_are_usage_errors() {
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
