//! `rpc` and `mcp`: runs the proxy between the host of this process and the daemon.
//!
//! Owns the wiring of threads, proxy and parent check. SIGTERM, SIGINT and SIGHUP keep their
//! default action, which ends the process at once; the daemon sees a full close and cancels what it
//! was doing for us.

use std::time::Duration;

use ingle_client::exit;
use ingle_protocol::limits;
use ingle_protocol::wire::hello::{HelloParams, Role};

use crate::context::Context;
use crate::output::{Outcome, Output};
use crate::proxy;
use crate::proxy::daemon_link;
use crate::proxy::host::HostProcess;
use crate::proxy::stdio::{Stdin, Stdout};

/// Proxies until the host or the session ends. An MCP host waits for one reply as long as
/// `host_timeout` says.
pub(crate) async fn run(context: Context, role: Role, host_timeout: Option<Duration>) -> Outcome {
    let host = HostProcess::remember();
    let (stdin, stdout) = (Stdin::start()?, Stdout::start()?);
    let host_timeout_ms = host_timeout.and_then(|timeout| u64::try_from(timeout.as_millis()).ok());
    let hello = HelloParams { host: host.name(), host_timeout_ms, ..HelloParams::new(role) };
    let connector = daemon_link::to_daemon(context.paths, context.program);
    // Standard output carries frames only; hosts keep standard error in their logs.
    let report = |error: &_| Output::standard(false).error(error);
    tokio::select! {
        code = proxy::run(hello, connector, stdin, stdout.sender(), report) => {
            stdout.finish(Duration::from_millis(limits::DRAIN_MS)).await;
            Ok(code)
        }
        // No host is left to read replies. A shell that has started `ingle rpc` may end before it;
        // there only the end of the input counts.
        () = host.gone(), if role == Role::Mcp => Ok(exit::OK),
    }
}
