//! `timeouts`: shows and checks the ladder of this shell, and compares it with the daemon's.
//!
//! Owns its output. Starts no daemon: a check must not change what it checks.

use ingle_client::exit;
use ingle_client::paths::Paths;
use ingle_client::timeout_settings::{
    self, ConfiguredSetting, Origin, ResolvedTimeouts, Seconds, Setting, SettingName, Sources,
};
use ingle_protocol::error::ErrorBody;
use ingle_protocol::timeouts::{Class, Layer, WorkTimeouts};
use ingle_protocol::wire::hello::HelloReply;
use serde_json::{Map, Value, json};

use crate::context::Context;
use crate::output::{Failure, Outcome};

/// Prints the ladder of all classes, or of one.
pub(crate) async fn run(context: &mut Context, class: Option<Class>) -> Outcome {
    let here = here(&context.paths)?;
    for SettingName { name, origin } in &here.unknown {
        context.output.note(&format!(
            "warning: `{name}` ({origin}) is not a setting; `ingle timeouts --help` lists them"
        ));
    }
    let daemon = running(context).await?;
    let shown = |setting: &Setting| match (setting, class) {
        (Setting::Work(work), Some(class)) => *work == class,
        _ => true,
    };
    let settings: Vec<Setting> = Setting::ALL.into_iter().filter(shown).collect();
    let differing: Vec<Setting> = match &daemon {
        Some(daemon) => differences(&settings, &here.timeouts, &daemon.timeouts),
        None => Vec::new(),
    };
    if context.output.json {
        context.output.json(&as_json(&settings, class, &here, daemon.as_ref(), &differing))?;
    } else {
        print(context, &settings, &here)?;
    }
    if let Some(daemon) = daemon {
        warn_of_differences(context, &differing, &here.timeouts, &daemon);
    }
    Ok(exit::OK)
}

/// Warns where the ladder of a daemon that was just started differs from that of this shell: a host
/// may have started it first, with another environment.
pub(crate) fn compare(context: &mut Context, here: &WorkTimeouts, daemon: &HelloReply) {
    let differing = differences(&Setting::ALL, here, &daemon.timeouts);
    warn_of_differences(context, &differing, here, daemon);
}

fn warn_of_differences(
    context: &mut Context,
    differing: &[Setting],
    here: &WorkTimeouts,
    daemon: &HelloReply,
) {
    if differing.is_empty() {
        return;
    }
    for setting in differing {
        context.output.note(&format!(
            "warning: {} is {} s here and {} s in the running daemon (process {}), which applies",
            setting.name(),
            Seconds(setting.ms(here)),
            Seconds(setting.ms(&daemon.timeouts)),
            daemon.pid
        ));
    }
    context.output.note(&format!(
        "hint: `ingle restart` applies the settings of this shell; settings for every start belong \
         in `{}` or config.toml.",
        context.paths.env_file().display()
    ));
}

/// The ladder that a daemon started from this process would use.
pub(crate) fn here(paths: &Paths) -> Result<ResolvedTimeouts, Failure> {
    let resolved = Sources::read(paths).and_then(|sources| timeout_settings::resolve(&sources));
    Ok(resolved.map_err(|error| ErrorBody::from(&error))?)
}

/// The `hello` of the running daemon, if one runs and answers.
async fn running(context: &mut Context) -> Result<Option<HelloReply>, Failure> {
    match context.connect_running().await {
        Ok(client) => Ok(client.map(|client| client.hello().clone())),
        Err(Failure::Error { body, .. }) => {
            // Such as a daemon of another version: the rest of the output does not need it.
            context
                .output
                .note(&format!("warning: the running daemon did not answer: {}", body.message));
            context.output.note(&format!("hint: {}", body.remediation()));
            Ok(None)
        }
        Err(failure) => Err(failure),
    }
}

fn differences(settings: &[Setting], here: &WorkTimeouts, daemon: &WorkTimeouts) -> Vec<Setting> {
    let differs = |setting: &&Setting| setting.ms(here) != setting.ms(daemon);
    settings.iter().filter(differs).copied().collect()
}

fn print(
    context: &mut Context,
    settings: &[Setting],
    here: &ResolvedTimeouts,
) -> Result<(), Failure> {
    let seconds = |ms: u64| Seconds(ms).to_string();
    let from = |setting| here.given(setting).map_or_else(|| "default".to_owned(), place);
    let (mut classes, mut others) = (Vec::new(), Vec::new());
    for &setting in settings {
        let name = setting.key().to_owned();
        if let Setting::Work(class) = setting {
            let ladder = here.timeouts.ladder(class);
            let [work, daemon, shim, client] =
                [ladder.work_ms, ladder.daemon_ms, ladder.shim_ms, ladder.client_ms].map(seconds);
            let http = seconds(here.timeouts.http_limit_ms(class));
            classes.push([name, work, daemon, shim, client, http, from(setting)]);
        } else {
            others.push([name, seconds(setting.ms(&here.timeouts)), from(setting)]);
        }
    }
    let headings = ["CLASS", "WORK", "DAEMON", "SHIM", "CLIENT", "HTTP", "SET BY"];
    context.output.table(headings, &headings[1..6], classes)?;
    context.output.line("")?;
    context.output.table(["CLOUD PROVIDERS", "LIMIT", "SET BY"], &["LIMIT"], others)?;
    context.output.line("")?;
    let [daemon, shim, client] = Layer::DERIVED.map(Layer::ratio);
    context.output.line(&format!(
        "In seconds. The daemon answers at {daemon} x WORK, the shim at {shim} x, the client at \
         {client} x."
    ))
}

/// The origin of a setting, short enough for a table.
fn place(given: &ConfiguredSetting) -> String {
    match &given.named.origin {
        Origin::Default => "default".to_owned(),
        Origin::Environment => given.named.name.clone(),
        Origin::File { path, line } => {
            let file = path.file_name().unwrap_or_default().to_string_lossy();
            format!("{file}, line {line}")
        }
    }
}

fn as_json(
    settings: &[Setting],
    class: Option<Class>,
    here: &ResolvedTimeouts,
    daemon: Option<&HelloReply>,
    differing: &[Setting],
) -> Value {
    let mut value = ladder_json(settings, class, &here.timeouts);
    let ratios = Layer::DERIVED.map(|layer| (layer.as_str().to_owned(), json!(layer.ratio())));
    value["ratios"] = Value::Object(Map::from_iter(ratios));
    let sources = settings.iter().map(|&setting| {
        let source = match here.given(setting) {
            None => json!({ "from": "default" }),
            Some(ConfiguredSetting { named: SettingName { name, origin }, .. }) => match origin {
                Origin::Default => json!({ "from": "default" }),
                Origin::Environment => json!({ "from": "environment", "name": name }),
                Origin::File { path, line } => json!({ "from": path, "name": name, "line": line }),
            },
        };
        (setting.key().to_owned(), source)
    });
    value["sources"] = sources.collect::<Map<_, _>>().into();
    value["daemon"] = Value::Null;
    if let Some(daemon) = daemon {
        let mut theirs = ladder_json(settings, class, &daemon.timeouts);
        theirs["pid"] = json!(daemon.pid);
        theirs["build"] = json!(daemon.build);
        let differences = differing.iter().map(|setting| {
            let here = seconds(setting.ms(&here.timeouts));
            let there = seconds(setting.ms(&daemon.timeouts));
            json!({ "setting": setting.name(), "here": here, "daemon": there })
        });
        theirs["differences"] = differences.collect::<Vec<_>>().into();
        value["daemon"] = theirs;
    }
    value
}

/// The configured and derived limits. The infrastructure's limits are those of the class, or of the
/// workflow, which is the default class.
fn ladder_json(settings: &[Setting], class: Option<Class>, timeouts: &WorkTimeouts) -> Value {
    let (mut tools, mut classes) = (Map::new(), Map::new());
    let mut infrastructure = layers_json(class.unwrap_or(Class::Workflow), timeouts);
    for &setting in settings {
        let (name, own) = (setting.key().to_owned(), seconds(setting.ms(timeouts)));
        match setting {
            Setting::Work(class) => {
                let mut layers = layers_json(class, timeouts);
                layers.insert("work".to_owned(), own.clone());
                classes.insert(name.clone(), layers.into());
                tools.insert(name, own);
            }
            // Present already, as that of the class.
            Setting::Http => {}
            _ => {
                infrastructure.insert(name, own);
            }
        }
    }
    json!({
        "tool_timeouts": tools,
        "infrastructure_timeouts": infrastructure,
        "classes": classes,
    })
}

/// The limits derived from W of one class.
fn layers_json(class: Class, timeouts: &WorkTimeouts) -> Map<String, Value> {
    let ladder = timeouts.ladder(class);
    let layers = Layer::DERIVED.map(|layer| (layer.as_str(), ladder.limit_ms(layer)));
    let limits = layers.into_iter().chain([("http", timeouts.http_limit_ms(class))]);
    limits.map(|(name, ms)| (name.to_owned(), seconds(ms))).collect()
}

/// Converts milliseconds to seconds, as a whole number where possible.
#[expect(clippy::cast_precision_loss, reason = "at most 25 days")]
fn seconds(ms: u64) -> Value {
    if ms.is_multiple_of(1_000) { json!(ms / 1_000) } else { json!(ms as f64 / 1e3) }
}
