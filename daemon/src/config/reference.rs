//! The reference of all configuration keys, in docs/configuration.md.
//!
//! Owns one table of what each key means. Tests hold it against the file's reader and against the
//! document; `INGLE_UPDATE_DOCS=1 cargo test -p ingled reference` writes the document anew.

use ingle_client::timeout_settings::Setting;
use ingle_protocol::timeouts::WorkTimeouts;

use super::Config;
use crate::reference::assert_generated;

/// One key of `config.toml`; every text is Markdown.
struct Key {
    name: &'static str,
    /// Its type and range.
    kind: &'static str,
    default: &'static str,
    meaning: &'static str,
    /// Variables that set it where the file does not.
    environment: &'static str,
    /// A value that the reader accepts.
    example: &'static str,
}

const KEYS: &[Key] = &[
    Key {
        name: "default_model",
        kind: "name",
        default: "`smollm2`",
        meaning: "the model of calls that name none",
        environment: "",
        example: r#""smollm2""#,
    },
    Key {
        name: "engine.prefer",
        kind: "`gguf` or `mlx`",
        default: "the format's engine",
        meaning: "the engine for models that more than one can run",
        environment: "",
        example: r#""gguf""#,
    },
    Key {
        name: "engine.threads",
        kind: "1 to 512",
        default: "physical cores",
        meaning: "threads of llama.cpp",
        environment: "",
        example: "2",
    },
    Key {
        name: "engine.gpu_layers",
        kind: "number",
        default: "llama.cpp's choice",
        meaning: "layers of a GGUF model on the GPU",
        environment: "",
        example: "0",
    },
    Key {
        name: "engine.gguf_context_tokens",
        kind: "256 to 16777216",
        default: "8192",
        meaning: "maximum tokens of one sequence of a GGUF model; llama.cpp allocates the KV cache with the model",
        environment: "",
        example: "8192",
    },
    Key {
        name: "engine.stall_s",
        kind: "0.1 to 86400",
        default: "60",
        meaning: "seconds without a report after which a working engine has stalled, and the daemon exits with 80",
        environment: "",
        example: "60",
    },
    Key {
        name: "memory.budget",
        kind: "size, or 1% to 100%",
        default: "`75%`; on a Mac `100%`",
        meaning: "memory for all models: a share of the machine's memory, on a Mac of Metal's recommendation; at least 1 MiB",
        environment: "",
        example: r#""50%""#,
    },
    Key {
        name: "memory.keep_alive",
        kind: "duration",
        default: "`30m`",
        meaning: "time after its last use until a model is unloaded; `forever`, or 0 for at once",
        environment: "",
        example: r#""10m""#,
    },
    Key {
        name: r#"models."NAME".keep_alive"#,
        kind: "duration",
        default: "`memory.keep_alive`",
        meaning: "the same for one model",
        environment: "",
        example: r#""forever""#,
    },
    Key {
        name: r#"models."NAME".pin"#,
        kind: "true or false",
        default: "false",
        meaning: "whether the model is never evicted and never expires",
        environment: "",
        example: "true",
    },
    Key {
        name: "jobs.workers",
        kind: "1 to 64",
        default: "4",
        meaning: "jobs that run at once; with 5 or more, jobs can take every slot of the engine",
        environment: "",
        example: "4",
    },
    Key {
        name: "jobs.keep_days",
        kind: "1 or more",
        default: "30",
        meaning: "days after which an ended job is deleted",
        environment: "",
        example: "30",
    },
    Key {
        name: "jobs.keep_count",
        kind: "1 to 100000",
        default: "1000",
        meaning: "number of ended jobs that are kept",
        environment: "",
        example: "1000",
    },
    Key {
        name: "http.listen",
        kind: "address and port",
        default: "off",
        meaning: "where HTTP is served over TCP",
        environment: "",
        example: r#""127.0.0.1:11711""#,
    },
    Key {
        name: "http.auth",
        kind: "`token` or `none`",
        default: "`token`",
        meaning: "whether TCP requires the token; `none` at a loopback address only",
        environment: "",
        example: r#""token""#,
    },
    Key {
        name: "http.allowed_hosts",
        kind: "list of names",
        default: "empty",
        meaning: "names allowed in `Host` besides this machine's own, with or without a port",
        environment: "",
        example: r#"["my-mac.local"]"#,
    },
    Key {
        name: "http.cors_origins",
        kind: "list of origins",
        default: "empty",
        meaning: r#"origins whose pages may read replies; `*` with `auth = "token"` only"#,
        environment: "",
        example: r#"["http://localhost:3000"]"#,
    },
    Key {
        name: "mlx.cache_limit",
        kind: "size",
        default: "`256 MiB`",
        meaning: "freed memory that MLX keeps for reuse",
        environment: "",
        example: r#""256 MiB""#,
    },
    Key {
        name: "mlx.wired_limit",
        kind: "size",
        default: "off",
        meaning: "memory that MLX keeps from being paged out; linked to kernel panics on some Macs",
        environment: "",
        example: r#""4 GiB""#,
    },
    Key {
        name: "library.huggingface",
        kind: "true, false or path",
        default: "true",
        meaning: "the Hugging Face cache: the folder with the `models--ORG--NAME` folders",
        environment: "`HF_HUB_CACHE`, `HF_HOME`",
        example: "true",
    },
    Key {
        name: "library.lm_studio",
        kind: "true, false or path",
        default: "true",
        meaning: "LM Studio's models",
        environment: "",
        example: r#""/models""#,
    },
    Key {
        name: "library.folders",
        kind: "list of paths",
        default: "empty",
        meaning: "further folders, searched three levels deep",
        environment: "",
        example: r#"["/models"]"#,
    },
    Key {
        name: "library.huggingface_endpoint",
        kind: "URL",
        default: "`https://huggingface.co`",
        meaning: "the hub",
        environment: "`HF_ENDPOINT`",
        example: r#""https://huggingface.co""#,
    },
    Key {
        name: "library.huggingface_token",
        kind: "text",
        default: "login of `hf auth login`",
        meaning: "the token for gated and private models; sent to the hub's own address only",
        environment: "`HF_TOKEN`, `HF_TOKEN_PATH`",
        example: r#""hf_x""#,
    },
    Key {
        name: "mcp.prompt_chars",
        kind: "1 to 1000000",
        default: "20000",
        meaning: "characters that one tool call may give a model",
        environment: "",
        example: "20000",
    },
];

/// What a timeout bounds. W is the work timeout, from which the other layers' limits are derived.
fn timeout_meaning(key: &str) -> &'static str {
    match key {
        "simple" => "W of small calls",
        "workflow" => "W of MCP tools that generate, and of loads",
        "expert_analysis" => "W of a review of another model's output",
        "chat" => "W of `generate` with messages",
        "completions" => "W of `generate` with a raw prompt",
        "embeddings" => "W of `embed`",
        "job" => "W of jobs without a timeout of their own",
        "upstream" => {
            "one attempt at a cloud provider: until its first byte, and every gap after it"
        }
        "upstream_glm" => "the same for GLM",
        "upstream_kimi" => "the same for Kimi",
        "upstream_kimi_web_search" => "the same when Kimi searches the web",
        "http" => "a whole call to a provider",
        _ => "",
    }
}

fn row(cells: &[&str]) -> String {
    format!("| {} |\n", cells.join(" | ").replace("  ", " "))
}

fn timeout_row(setting: Setting) -> String {
    let seconds = setting.ms(&WorkTimeouts::default()) / 1_000;
    let default = match setting {
        Setting::Http => format!("{seconds}, or `workflow`"),
        _ => seconds.to_string(),
    };
    let variables: Vec<String> = std::iter::once(setting.variable())
        .chain(setting.aliases().iter().map(|alias| (*alias).to_owned()))
        .map(|name| format!("`{name}`"))
        .collect();
    row(&[
        &format!("`{}`", setting.name()),
        "seconds",
        &default,
        timeout_meaning(setting.key()),
        &variables.join(", "),
    ])
}

fn table() -> String {
    let mut table = row(&["key", "type", "default", "meaning", "environment"]);
    table.push_str("|---|---|---|---|---|\n");
    let (engine, others): (Vec<&Key>, Vec<&Key>) =
        KEYS.iter().partition(|key| key.name.starts_with("engine.") || key.name == "default_model");
    let key_row = |key: &&Key| {
        let name = format!("`{}`", key.name);
        row(&[&name, key.kind, key.default, key.meaning, key.environment])
    };
    table.extend(engine.iter().map(key_row));
    table.extend(Setting::ALL.into_iter().map(timeout_row));
    table.extend(others.iter().map(key_row));
    table
}

/// The keys that the file's reader knows in a table, from its refusal of another.
fn known_keys(table: &str) -> Vec<String> {
    let refused = Config::parse(&format!("{table}\nno_such_key = 1\n")).unwrap_err();
    let (_, expected) = refused.split_once("expected").unwrap();
    expected.split('`').skip(1).step_by(2).map(str::to_owned).collect()
}

#[test]
fn every_key_is_read_and_described() {
    for key in KEYS {
        let text = match key.name.rsplit_once('.') {
            Some((table, name)) => format!("[{table}]\n{name} = {}\n", key.example),
            None => format!("{} = {}\n", key.name, key.example),
        };
        if let Err(problem) = Config::parse(&text) {
            // A build without an engine refuses to prefer it.
            assert!(problem.contains("was built without"), "{}: {problem}", key.name);
        }
    }
    for prefix in ["engine", "memory", "mlx", "jobs", "http", "mcp", "library", "models.\"NAME\""] {
        for name in known_keys(&format!("[{prefix}]")) {
            let full = format!("{prefix}.{name}");
            assert!(KEYS.iter().any(|key| key.name == full), "{full} is not described");
        }
    }
    for setting in Setting::ALL {
        assert!(!timeout_meaning(setting.key()).is_empty(), "{} is not described", setting.name());
    }
}

#[test]
fn configuration_document_lists_every_key() {
    assert_generated("docs/configuration.md", &table());
}
