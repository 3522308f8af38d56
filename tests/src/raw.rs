//! Raw bytes on the socket, as a broken or hostile peer sends them, and the replies.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use serde_json::{Value, json};

use crate::Home;

/// Seconds to wait for a reply before the test fails.
const REPLY_LIMIT: Duration = Duration::from_secs(30);

/// One raw connection.
#[derive(Debug)]
pub struct Raw {
    reader: BufReader<UnixStream>,
}

impl Raw {
    /// Connects without a `hello`.
    ///
    /// # Panics
    /// When no daemon listens.
    #[must_use]
    pub fn connect(home: &Home) -> Self {
        let stream = UnixStream::connect(home.paths().socket()).expect("the daemon listens");
        stream.set_read_timeout(Some(REPLY_LIMIT)).expect("a read limit");
        Self { reader: BufReader::new(stream) }
    }

    /// The stream itself.
    #[must_use]
    pub fn stream(&self) -> &UnixStream {
        self.reader.get_ref()
    }

    /// Sends bytes as they are.
    ///
    /// # Panics
    /// When the daemon has closed the connection.
    pub fn send(&self, bytes: &[u8]) {
        let mut stream = self.reader.get_ref();
        stream.write_all(bytes).expect("the connection takes bytes");
    }

    /// Sends one request.
    pub fn request(&self, id: i64, method: &str, params: &Value) {
        let frame = json!({ "jsonrpc": "2.0", "id": id, "method": method, "params": params });
        self.send(format!("{frame}\n").as_bytes());
    }

    /// The next frame.
    ///
    /// # Panics
    /// When no frame arrives, or it is not JSON.
    #[must_use]
    pub fn reply(&mut self) -> Value {
        let mut line = String::new();
        self.reader.read_line(&mut line).expect("a reply in time");
        serde_json::from_str(&line).unwrap_or_else(|error| panic!("not JSON ({error}): {line:?}"))
    }

    /// The name of the next frame's error code.
    #[must_use]
    pub fn error_code(&mut self) -> String {
        let reply = self.reply();
        reply["error"]["data"]["code"].as_str().unwrap_or("none").to_owned()
    }

    /// Sends a request and returns its reply, skipping events.
    #[must_use]
    pub fn call(&mut self, id: i64, method: &str, params: &Value) -> Value {
        self.request(id, method, params);
        loop {
            let reply = self.reply();
            if reply["id"] == json!(id) {
                return reply;
            }
        }
    }
}
