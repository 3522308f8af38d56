//! A daemon for tests: answers each method by a closure, over a real socket in a private home.

use std::ops::{Deref, DerefMut};
use std::path::PathBuf;

use ingle_protocol::error::ErrorBody;
use ingle_protocol::paths::Paths;
use ingle_protocol::timeouts::WorkTimeouts;
use ingle_protocol::{BUILD, PROTOCOL_VERSION};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::UnixListener;

use crate::app::App;
use crate::output::tests::{Captured, captured};

/// An [`App`] whose home goes when it goes.
pub(crate) struct TestApp {
    pub(crate) app: App,
    _home: TempDir,
}

impl Deref for TestApp {
    type Target = App;

    fn deref(&self) -> &App {
        &self.app
    }
}

impl DerefMut for TestApp {
    fn deref_mut(&mut self) -> &mut App {
        &mut self.app
    }
}

/// An app with an empty home, and what it prints.
pub(crate) fn app(json: bool) -> (TestApp, Captured, Captured) {
    let home = tempfile::tempdir().unwrap();
    let (output, out, err) = captured(json);
    let paths = Paths::new(home.path().join("home"), None).unwrap();
    let program = PathBuf::from("/nonexistent/ingled");
    (TestApp { app: App { paths, program, output }, _home: home }, out, err)
}

/// What a fake daemon says to one call: events first, then a reply or an error.
pub(crate) type Answer = (Vec<Value>, Result<Value, ErrorBody>);

/// The reply to `hello`.
pub(crate) fn hello() -> Value {
    json!({
        "protocol": PROTOCOL_VERSION,
        "build": BUILD,
        "pid": 42,
        "timeouts": WorkTimeouts::default(),
    })
}

/// Starts a daemon at the app's socket. A `shutdown` closes its connection after the reply.
pub(crate) fn serve(
    paths: &Paths,
    mut answer: impl FnMut(&str, &Value) -> Answer + Send + 'static,
) {
    paths.prepare().unwrap();
    let listener = UnixListener::bind(paths.socket()).unwrap();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let (reader, mut writer) = stream.into_split();
            let mut lines = BufReader::new(reader).lines();
            while let Ok(Some(line)) = lines.next_line().await {
                let call: Value = serde_json::from_str(&line).unwrap();
                let method = call["method"].as_str().unwrap();
                let (events, reply) = match method {
                    "hello" => (Vec::new(), Ok(hello())),
                    method => answer(method, &call["params"]),
                };
                let mut frames = String::new();
                for event in events {
                    let params = json!({ "id": call["id"], "event": event });
                    let event = json!({ "jsonrpc": "2.0", "method": "$/event", "params": params });
                    frames += &format!("{event}\n");
                }
                let mut frame = json!({ "jsonrpc": "2.0", "id": call["id"] });
                match reply {
                    Ok(result) => frame["result"] = result,
                    Err(error) => frame["error"] = error.to_rpc(),
                }
                frames += &format!("{frame}\n");
                writer.write_all(frames.as_bytes()).await.unwrap();
                if method == "shutdown" {
                    break;
                }
            }
        }
    });
}
