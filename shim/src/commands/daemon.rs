//! `status`, `metrics`, `stop` and `restart` of the daemon. Only the last one starts it.

use std::fs::File;
use std::time::Duration;

use ingle_client::paths::Paths;
use ingle_client::socket::{self, SharedStream};
use ingle_client::{exit, launch};
use ingle_protocol::error::{ErrorBody, ErrorCode};
use ingle_protocol::frame::{Frame, FrameReader};
use ingle_protocol::jsonrpc::Message;
use ingle_protocol::limits;
use ingle_protocol::wire::metrics::{Metrics, MetricsFormat, MetricsParams};
use ingle_protocol::wire::status::{
    HealthState, Latency, Phase, Shutdown, ShutdownParams, ShutdownReply, Status, StatusReply,
};
use ingle_protocol::wire::{Method, NoParams};
use serde_json::json;
use tokio::io::AsyncWriteExt;
use tokio::time::{Instant, sleep, timeout_at};

use super::models::loaded_table;
use crate::context::Context;
use crate::output::{self, Failure, Outcome};

/// Interval of checks of the lock of a daemon that has closed its connections.
const LOCK_CHECK: Duration = Duration::from_millis(5);

/// Prints the status of the daemon. A daemon that is not running is no failure of the command, but
/// the exit code is [`exit::UNAVAILABLE`], for scripts.
pub(crate) async fn status(context: &mut Context) -> Outcome {
    let Some(client) = context.connect_running().await? else {
        if context.output.json {
            context.output.json(&json!({ "running": false, "socket": context.paths.socket() }))?;
        } else {
            context.output.line("ingled is not running")?;
            context.output.note("hint: it is started on demand, for example by `ingle chat`.");
        }
        return Ok(exit::UNAVAILABLE);
    };
    let reply = client.call::<Status>(&NoParams {}).await?;
    if context.output.json {
        let mut value = json!(reply);
        value["running"] = json!(true);
        context.output.json(&value)?;
        return Ok(exit::OK);
    }
    for (name, value) in lines(&reply) {
        context.output.line(&format!("{name:<12} {value}"))?;
    }
    if !reply.models.is_empty() {
        context.output.line("")?;
        loaded_table(&mut context.output, &reply.models)?;
    }
    Ok(exit::OK)
}

/// Prints the daemon's metrics.
pub(crate) async fn metrics(context: &mut Context) -> Outcome {
    let Some(client) = context.connect_running().await? else {
        let next = "It is started on demand, for example by `ingle chat`.";
        let error = ErrorBody::new(ErrorCode::DaemonUnavailable, "ingled is not running");
        return Err(error.with_remediation(next).into());
    };
    let format = if context.output.json { MetricsFormat::Families } else { MetricsFormat::Text };
    let reply = client.call::<Metrics>(&MetricsParams { format }).await?;
    match reply.text {
        Some(text) => context.output.text(&text)?,
        None => context.output.json(&reply)?,
    }
    Ok(exit::OK)
}

/// Formats milliseconds with the digits of a latency.
fn duration(ms: f64) -> String {
    match ms {
        ..10.0 => format!("{ms:.1} ms"),
        ..1_000.0 => format!("{ms:.0} ms"),
        _ => format!("{:.1} s", ms / 1_000.0),
    }
}

fn lines(reply: &StatusReply) -> Vec<(&'static str, String)> {
    let health = match reply.health.state {
        HealthState::Ok => "ok".to_owned(),
        HealthState::Degraded => format!(
            "degraded: the engine has not responded for {}",
            output::seconds(reply.health.heartbeat_age_ms / 1_000)
        ),
        HealthState::Draining => "draining: new work is refused".to_owned(),
    };
    let phase = match &reply.health.phase {
        Phase::Starting => "starting".to_owned(),
        Phase::Idle => "idle".to_owned(),
        Phase::Loading { model, fraction } => {
            format!("loading {model}, {:.0} %", fraction * 100.0)
        }
        Phase::Prefill { model } => format!("reading a prompt with {model}"),
        Phase::Decode { model } => format!("generating with {model}"),
        Phase::Stopped => "stopped".to_owned(),
    };
    let mut lines = vec![
        ("daemon", format!("ingled {}, process {}", reply.build, reply.pid)),
        ("health", health),
        ("engine", phase),
        ("up for", output::seconds(reply.uptime_s)),
        (
            "requests",
            format!(
                "{} running, {} waiting, {} since the start",
                reply.active, reply.queued, reply.generations
            ),
        ),
        ("connections", reply.connections.to_string()),
    ];
    for (name, latency) in [("first token", reply.ttft), ("next token", reply.inter_token)] {
        if let Some(Latency { p50_ms, p95_ms, .. }) = latency {
            let (half, most) = (duration(p50_ms), duration(p95_ms));
            lines.push((name, format!("after {half} at the median, {most} at 95 %")));
        }
    }
    if reply.resident_bytes > 0 {
        lines.push((
            "resident",
            format!(
                "{}, at most {} so far",
                output::bytes(reply.resident_bytes),
                output::bytes(reply.peak_resident_bytes.max(reply.resident_bytes))
            ),
        ));
    }
    if reply.budget_bytes > 0 {
        lines.push((
            "models",
            format!(
                "{} of a budget of {}",
                output::bytes(reply.used_bytes),
                output::bytes(reply.budget_bytes)
            ),
        ));
    }
    if reply.jobs.running + reply.jobs.queued > 0 {
        let jobs = reply.jobs;
        lines.push(("jobs", format!("{} running, {} waiting", jobs.running, jobs.queued)));
    }
    if !reply.timeouts.is_empty() {
        let name = |value: serde_json::Value| value.as_str().unwrap_or_default().to_owned();
        let counts = reply.timeouts.iter().map(|count| {
            let (class, layer) = (name(json!(count.class)), name(json!(count.layer)));
            format!("{} of {class} by the {layer} layer", count.count)
        });
        lines.push(("timeouts", counts.collect::<Vec<_>>().join(", ")));
    }
    for model in &reply.quarantined {
        lines.push(("crashed", format!("{}: {}", model.name, model.reason)));
    }
    lines.push(("socket", reply.socket.clone()));
    if let Some(url) = reply.http.url.as_ref().or(reply.http.problem.as_ref()) {
        lines.push(("http", url.clone()));
    }
    lines
}

/// Stops the daemon and waits until it has ended. It is no failure when none runs.
pub(crate) async fn stop(context: &mut Context, now: bool) -> Outcome {
    let Some(ended) = end(context, now).await? else {
        if context.output.json {
            context.output.json(&json!({ "running": false, "stopped": false }))?;
        } else {
            context.output.line("ingled is not running")?;
        }
        return Ok(exit::OK);
    };
    if context.output.json {
        context.output.json(&json!({ "running": false, "stopped": true, "pid": ended.pid }))?;
    } else {
        let process = ended.pid.map(|pid| format!(" (process {pid})")).unwrap_or_default();
        context.output.line(&format!("ingled{process} has ended"))?;
    }
    Ok(exit::OK)
}

/// Stops the daemon, if one runs, and starts another. Invalid settings are reported before that: a
/// daemon with old settings is better than none.
pub(crate) async fn restart(context: &mut Context, now: bool) -> Outcome {
    let here = super::timeouts::here(&context.paths)?.timeouts;
    let ended = end(context, now).await?;
    let client = context.connect().await?;
    let pid = client.hello().pid;
    super::timeouts::compare(context, &here, client.hello());
    if context.output.json {
        let was = ended.and_then(|ended| ended.pid);
        context.output.json(&json!({ "running": true, "pid": pid, "stopped_pid": was }))?;
    } else {
        context.output.line(&format!("ingled runs (process {pid})"))?;
    }
    Ok(exit::OK)
}

/// A daemon that was stopped.
struct StoppedDaemon {
    /// Its process id, where it reported it.
    pid: Option<u32>,
}

/// Stops the daemon and waits until it has ended; `None` when none was running.
async fn end(context: &mut Context, now: bool) -> Result<Option<StoppedDaemon>, Failure> {
    context.paths.check_socket()?;
    let Ok(stream) = socket::connect(context.paths.socket()).await else { return Ok(None) };
    // A drain, the wait for the engine after it, and some time for the process to end.
    let limit = Duration::from_millis(2 * limits::DRAIN_MS + 2_000);
    let give_up_at = Instant::now() + limit;
    let late = |_| {
        let message = format!("ingled has not ended within {} s", limit.as_secs());
        ErrorBody::new(ErrorCode::Timeout, message)
            .with_remediation("Run `ingle stop --now`; `ingle logs` shows what it is doing.")
    };
    let stream = SharedStream::new(stream);
    let mut frames = FrameReader::new(stream.clone(), limits::FRAME_BYTES);
    let request = request_shutdown(&mut frames, stream, now);
    let reply = timeout_at(give_up_at, request).await.map_err(late)??;
    let active = reply.map_or(0, |reply| reply.active);
    if active > 0 && !now && context.output.is_watched() {
        context.output.note(&format!("waiting for {active} generations, at most a few seconds"));
    }
    let has_ended = timeout_at(give_up_at, async {
        while let Ok(Some(_)) = frames.next().await {}
        while !is_free(&context.paths) {
            sleep(LOCK_CHECK).await;
        }
    });
    has_ended.await.map_err(late)?;
    Ok(Some(StoppedDaemon { pid: reply.map(|reply| reply.pid) }))
}

/// Sends `shutdown` and returns its reply, if the daemon was not shutting down already.
///
/// This is the only request that is sent without `hello`: a daemon of another version refuses
/// `hello`, and must be stopped all the same.
async fn request_shutdown(
    frames: &mut FrameReader<SharedStream>,
    mut writer: SharedStream,
    now: bool,
) -> Result<Option<ShutdownReply>, Failure> {
    let params = ShutdownParams { now };
    let request = json!({ "jsonrpc": "2.0", "id": 1, "method": Shutdown::NAME, "params": params });
    if writer.write_all(format!("{request}\n").as_bytes()).await.is_err() {
        return Ok(None);
    }
    let Ok(Some(Frame::Line(line))) = frames.next().await else { return Ok(None) };
    let Ok(message) = Message::parse(&line) else { return Ok(None) };
    match (message.error(), message.result()) {
        (Some(error), _) => match ErrorBody::from_rpc(&error) {
            error if error.code == ErrorCode::ShuttingDown => Ok(None),
            error => Err(error.into()),
        },
        // A reply in the format of another version still means that it ends.
        (None, result) => Ok(result.and_then(|result| serde_json::from_str(result.get()).ok())),
    }
}

/// Whether no daemon holds its lock. The check takes the lock for a moment, in which a starting
/// daemon would mistake us for another daemon: so the start lock is taken first.
fn is_free(paths: &Paths) -> bool {
    let Ok(start_lock) =
        File::open(paths.start_lock()).or_else(|_| launch::open_lock(&paths.start_lock()))
    else {
        // Without the folder there is no lock.
        return true;
    };
    if start_lock.try_lock().is_err() {
        // A launcher is starting the next daemon, which cannot begin before the last has ended.
        return true;
    }
    File::open(paths.daemon_lock()).is_ok_and(|lock| lock.try_lock().is_ok())
        || !paths.daemon_lock().exists()
}
