//! `mcp install`, `mcp uninstall` and `mcp hosts`: Ingle in the configuration of tool hosts.
//!
//! Owns the output. `install` computes the new text of a host's file.

use std::path::{Path, PathBuf};
use std::time::Duration;

use ingle_client::exit;
use ingle_protocol::error::{ErrorBody, ErrorCode};
use ingle_protocol::timeouts::Class;
use serde_json::{Value, json};

use super::timeouts;
use crate::cli::{HostOptions, InstallOptions, McpCommand, UninstallOptions};
use crate::context::Context;
use crate::install::edit::JsonText;
use crate::install::file::{self, FileError};
use crate::install::hosts::{self, Environment, Host, Scope, ServerEntry, TimeoutSetting};
use crate::install::{self, EditError, Removed, jsonc};
use crate::output::{Failure, Outcome};

/// Mode of a new file for one user, and of one for all users of a folder.
const USER_MODE: u32 = 0o600;
const PROJECT_MODE: u32 = 0o644;

pub(crate) fn run(context: &mut Context, command: &McpCommand) -> Outcome {
    let around = Environment::of_process().ok_or_else(|| {
        ErrorBody::new(ErrorCode::ConfigInvalid, "the home folder or the working folder is unknown")
            .with_remediation("Set HOME to an absolute path, and run this in a folder that exists.")
    })?;
    match command {
        McpCommand::Install(options) => install(context, options, &around),
        McpCommand::Uninstall(options) => uninstall(context, options, &around),
        McpCommand::Hosts => list(context, &around),
    }
}

fn install(context: &mut Context, options: &InstallOptions, around: &Environment) -> Outcome {
    let HostOptions { host, scope, ref name, force } = options.host;
    let path = path(host, scope, around)?;
    let timeout = host_timeout(context, host, options.host_timeout)?;
    let entry = ServerEntry::new(host, name, &program()?, timeout, &variables());
    if options.print {
        return print(context, host, &entry, &path);
    }
    let snapshot = file::read(&path).map_err(unusable)?;
    let old = snapshot.text.as_deref();
    let new = install::install(old, host.servers(), &entry, force)
        .map_err(|refusal| refused(&refusal, &path, old.unwrap_or_default(), name))?;
    let is_changed = old != Some(new.as_str());
    let mode = if scope == Scope::User { USER_MODE } else { PROJECT_MODE };
    let backup = if is_changed { snapshot.replace(&new, mode).map_err(unusable)? } else { None };
    if context.output.json {
        context.output.json(&json!({
            "host": host.name(),
            "path": path,
            "changed": is_changed,
            "backup": backup,
            "host_timeout_s": timeout.as_secs_f64(),
            "entry": entry.value(),
        }))?;
        return Ok(exit::OK);
    }
    let (title, path) = (host.title(), path.display());
    if !is_changed {
        context.output.line(&format!("{title} already has {name}; {path} is unchanged"))?;
        return Ok(exit::OK);
    }
    context.output.line(&format!("added {name} to {title}: {path}"))?;
    if let Some(backup) = backup {
        context.output.line(&format!("backup: {}", backup.display()))?;
    }
    let seconds = timeout.as_secs_f64();
    context.output.line(&match host.timeout_setting() {
        TimeoutSetting::Fixed => {
            format!("Its timeout is assumed to be {seconds} s; a longer call continues as a job.")
        }
        _ => format!("Its tool timeout is set to {seconds} s."),
    })?;
    context.output.note(&format!("hint: restart {title}, or its MCP servers, if it is running"));
    if scope == Scope::Project {
        context.output.note(
            "hint: the entry has the path of `ingle` on this machine; other machines may differ",
        );
    }
    Ok(exit::OK)
}

fn uninstall(context: &mut Context, options: &UninstallOptions, around: &Environment) -> Outcome {
    let HostOptions { host, scope, ref name, force } = options.host;
    let path = path(host, scope, around)?;
    let snapshot = file::read(&path).map_err(unusable)?;
    let text = snapshot.text.as_deref().unwrap_or_default();
    let removed = install::uninstall(text, host.servers(), name, &snapshot.backups(), force)
        .map_err(|refusal| refused(&refusal, &path, text, name))?;
    let backup = match &removed {
        Removed::Nothing => None,
        Removed::Text(rest) => snapshot.replace(rest, USER_MODE).map_err(unusable)?,
        Removed::File => {
            snapshot.delete().map_err(unusable)?;
            None
        }
    };
    if context.output.json {
        context.output.json(&json!({
            "host": host.name(),
            "path": path,
            "changed": removed != Removed::Nothing,
            "backup": backup,
            "file_removed": removed == Removed::File,
        }))?;
        return Ok(exit::OK);
    }
    let (title, path) = (host.title(), path.display());
    context.output.line(&match removed {
        Removed::Nothing => format!("{title} does not have {name}; {path} is unchanged"),
        Removed::Text(_) => format!("removed {name} from {title}: {path}"),
        Removed::File => {
            format!("removed {name} from {title}: {path} had nothing else and is deleted")
        }
    })?;
    if let Some(backup) = backup {
        context.output.line(&format!("backup: {}", backup.display()))?;
    }
    Ok(exit::OK)
}

/// Prints the entry and changes nothing.
fn print(context: &mut Context, host: Host, entry: &ServerEntry, path: &Path) -> Outcome {
    if context.output.json {
        let servers = json!({ host.servers(): { &entry.name: entry.value() } });
        let shown = json!({ "host": host.name(), "path": path, "config": servers });
        context.output.json(&shown)?;
        return Ok(exit::OK);
    }
    let named = JsonText::Object(vec![(entry.name.clone(), entry.json_text())]);
    let form = JsonText::Object(vec![(host.servers().to_owned(), named)]);
    context.output.line(&form.pretty())?;
    context.output.note(&format!("hint: {} reads this from {}", host.title(), path.display()));
    Ok(exit::OK)
}

fn list(context: &mut Context, around: &Environment) -> Outcome {
    let hosts: Vec<Value> = Host::ALL.iter().map(|&host| describe(host, around)).collect();
    if context.output.json {
        context.output.json(&json!({ "hosts": hosts }))?;
        return Ok(exit::OK);
    }
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let rows = hosts.iter().map(|host| {
        let found = if host["found"] == true { "yes" } else { "no" };
        let ingle = match (&host["installed"], &host["problem"]) {
            (_, Value::String(_)) => "unknown: see below".to_owned(),
            (Value::Null, _) => "no".to_owned(),
            (entry, _) => match entry["ours"].as_bool() {
                Some(true) => "yes".to_owned(),
                _ => format!("no, that entry starts {}", text(&entry["command"])),
            },
        };
        [text(&host["host"]), found.to_owned(), ingle, text(&host["path"])]
    });
    context.output.table(["HOST", "HERE", "INGLE", "FILE"], &[], rows.collect())?;
    for problem in hosts.iter().filter_map(|host| host["problem"].as_str()) {
        context.output.note(&format!("warning: {problem}"));
    }
    Ok(exit::OK)
}

fn describe(host: Host, around: &Environment) -> Value {
    let path = host.file(Scope::User, around).unwrap_or_default();
    let found = host.traces(around).iter().any(|trace| trace.exists());
    let mut problem = Value::Null;
    let entry = match file::read(&path) {
        Ok(snapshot) => {
            let text = snapshot.text.unwrap_or_default();
            install::entry_in(&text, host.servers(), "ingle").unwrap_or_else(|refusal| {
                problem = json!(explain(&refusal, &path, &text, "ingle"));
                None
            })
        }
        Err(error) => {
            problem = json!(unusable(error).message);
            None
        }
    };
    let installed = entry.map(|entry| {
        let command = hosts::command_of(&entry);
        json!({ "command": command, "ours": hosts::is_ours(&entry), "args": entry["args"] })
    });
    json!({
        "host": host.name(),
        "title": host.title(),
        "path": path,
        "found": found,
        "installed": installed,
        "problem": problem,
    })
}

fn path(host: Host, scope: Scope, around: &Environment) -> Result<PathBuf, Failure> {
    host.file(scope, around).ok_or_else(|| {
        let message = format!("{} has no servers per project", host.title());
        Failure::usage(message, "Omit `--scope project`.")
    })
}

/// The tool timeout of the host. A tool can use at most the time that the client library waits for
/// a workflow.
fn host_timeout(
    context: &Context,
    host: Host,
    wanted: Option<Duration>,
) -> Result<Duration, Failure> {
    let longest = match (host.timeout_setting(), wanted) {
        (TimeoutSetting::Fixed, _) | (_, Some(_)) => hosts::DEFAULT_HOST_TIMEOUT,
        _ => {
            let here = timeouts::here(&context.paths)?;
            Duration::from_millis(here.timeouts.ladder(Class::Workflow).client_ms)
        }
    };
    host.timeout(wanted, longest)
        .map_err(|problem| Failure::usage(problem, "Give another --host-timeout, or omit it."))
}

/// The path of this program for a host: absolute, and that of a link in PATH where one leads here,
/// so that an update behind the link needs no new entry.
fn program() -> Result<String, Failure> {
    let here = std::env::current_exe()?;
    let real = here.canonicalize()?;
    let folders = std::env::var_os("PATH").unwrap_or_default();
    let linked = std::env::split_paths(&folders)
        .filter(|folder| folder.is_absolute())
        .map(|folder| folder.join("ingle"))
        .find(|program| program.canonicalize().is_ok_and(|program| program == real));
    let program = linked.unwrap_or(here);
    program.to_str().map(str::to_owned).ok_or_else(|| {
        let message = format!("`{}` is not UTF-8, and hosts read UTF-8 only", program.display());
        ErrorBody::new(ErrorCode::ConfigInvalid, message)
            .with_remediation("Move `ingle` to a folder with a UTF-8 name.")
            .into()
    })
}

/// The variables with which a host's `ingle` finds the same daemon as this one.
fn variables() -> Vec<(String, String)> {
    let set = |name: &str| Some((name.to_owned(), std::env::var(name).ok()?));
    hosts::OUR_VARIABLES.iter().filter_map(|name| set(name)).collect()
}

const PRINT_HINT: &str = "`ingle mcp install --print` shows the entry to add by hand.";

fn unusable(error: FileError) -> ErrorBody {
    let shown = |path: PathBuf| path.display().to_string();
    let (code, message, next) = match error {
        FileError::Io { verb, path, error } => (
            ErrorCode::PermissionDenied,
            format!("cannot {verb} `{}`: {error}", shown(path)),
            format!("Check the permissions of the file and its folder. {PRINT_HINT}"),
        ),
        FileError::NotAFile(path) => (
            ErrorCode::ConfigInvalid,
            format!("`{}` is not a file", shown(path)),
            format!("Move it away. {PRINT_HINT}"),
        ),
        FileError::TooLong(path) => (
            ErrorCode::ConfigInvalid,
            format!("`{}` is too large for a configuration", shown(path)),
            PRINT_HINT.to_owned(),
        ),
        FileError::NotText(path, line) => (
            ErrorCode::ConfigInvalid,
            format!("`{}`, line {line}, is not UTF-8", shown(path)),
            format!("Save the file as UTF-8. {PRINT_HINT}"),
        ),
        FileError::Changed(path) => (
            ErrorCode::Conflict,
            format!("`{}` was changed by another program in the meantime", shown(path)),
            "Nothing was written. Run the command again.".to_owned(),
        ),
    };
    ErrorBody::new(code, message).with_remediation(next)
}

fn refused(refusal: &EditError, path: &Path, text: &str, name: &str) -> ErrorBody {
    if *refusal == EditError::Unsound {
        let message = format!(
            "`{}` is unchanged: the edited text would not have had the intended value",
            path.display()
        );
        let next = format!("Report this bug with the file. {PRINT_HINT}");
        return ErrorBody::new(ErrorCode::Internal, message).with_remediation(next);
    }
    let message = format!("{}; the file is unchanged", explain(refusal, path, text, name));
    let next = match refusal {
        EditError::Foreign { .. } => {
            "Give another `--name`, or replace that entry with `--force`.".to_owned()
        }
        _ => format!("Correct the file in an editor. {PRINT_HINT}"),
    };
    ErrorBody::new(ErrorCode::ConfigInvalid, message).with_remediation(next)
}

fn explain(refusal: &EditError, path: &Path, text: &str, name: &str) -> String {
    let (at, problem) = match refusal {
        EditError::Syntax(error) => (error.at, error.problem.to_owned()),
        EditError::NotAnObject { at, name } if name.is_empty() => {
            (*at, "an object was expected".to_owned())
        }
        EditError::NotAnObject { at, name } => (*at, format!("`{name}` should be an object")),
        EditError::Twice { at, name } => (*at, format!("`{name}` occurs for the second time")),
        EditError::Foreign { at, command } => {
            (*at, format!("the entry `{name}` starts `{command}`, not `ingle mcp`"))
        }
        EditError::Unsound => (0, "the edited text would not have the intended value".to_owned()),
    };
    let (line, column) = jsonc::line_and_column(text, at);
    format!("`{}`, line {line}, column {column}: {problem}", path.display())
}
