//! A small HTTP client over a Unix socket or TCP: what is sent can be as wrong as a test wants.

use std::io::{BufRead, BufReader, ErrorKind, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use serde_json::Value;

use crate::Home;

/// Seconds after which an answer that has not come is a failure.
const ANSWER_LIMIT: Duration = Duration::from_secs(60);

#[derive(Debug)]
enum Stream {
    Unix(UnixStream),
    Tcp(TcpStream),
}

impl Read for Stream {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        match self {
            Self::Unix(stream) => stream.read(buffer),
            Self::Tcp(stream) => stream.read(buffer),
        }
    }
}

/// One connection.
#[derive(Debug)]
pub struct Http {
    reader: BufReader<Stream>,
}

/// An answer.
#[derive(Debug)]
pub struct Answer {
    /// Its status.
    pub status: u16,
    /// Its headers, the names in lower case.
    pub headers: Vec<(String, String)>,
    /// Its whole body.
    pub body: String,
}

impl Http {
    /// A connection to the daemon's Unix socket.
    ///
    /// # Panics
    /// When no daemon listens.
    #[must_use]
    pub fn socket(home: &Home) -> Self {
        let stream = UnixStream::connect(home.paths().http_socket()).expect("the daemon listens");
        stream.set_read_timeout(Some(ANSWER_LIMIT)).expect("a read limit");
        Self { reader: BufReader::new(Stream::Unix(stream)) }
    }

    /// A connection to a TCP address.
    ///
    /// # Panics
    /// When nobody listens.
    #[must_use]
    pub fn tcp(address: &str) -> Self {
        let stream = TcpStream::connect(address).expect("the daemon listens");
        stream.set_read_timeout(Some(ANSWER_LIMIT)).expect("a read limit");
        Self { reader: BufReader::new(Stream::Tcp(stream)) }
    }

    /// Sends bytes as they are; a peer that does not want them all is no failure.
    pub fn send(&mut self, bytes: &[u8]) {
        let _ = match self.reader.get_mut() {
            Stream::Unix(stream) => stream.write_all(bytes),
            Stream::Tcp(stream) => stream.write_all(bytes),
        };
    }

    /// Says that no more is sent.
    pub fn finish_sending(&mut self) {
        let _ = match self.reader.get_mut() {
            Stream::Unix(stream) => stream.shutdown(Shutdown::Write),
            Stream::Tcp(stream) => stream.shutdown(Shutdown::Write),
        };
    }

    /// Sends a request with these headers; a body is announced as JSON.
    pub fn request(&mut self, method: &str, path: &str, headers: &[(&str, &str)], body: &str) {
        let mut text = format!("{method} {path} HTTP/1.1\r\n");
        if !headers.iter().any(|(name, _)| *name == "host") {
            text.push_str("host: localhost\r\n");
        }
        for (name, value) in headers {
            text.push_str(&format!("{name}: {value}\r\n"));
        }
        if method == "POST" {
            if !headers.iter().any(|(name, _)| *name == "content-type") {
                text.push_str("content-type: application/json\r\n");
            }
            text.push_str(&format!("content-length: {}\r\n", body.len()));
        }
        text.push_str("\r\n");
        text.push_str(body);
        self.send(text.as_bytes());
    }

    /// Asks and reads the whole answer. The connection can be used again.
    pub fn ask(
        &mut self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: &str,
    ) -> Answer {
        self.request(method, path, headers, body);
        let mut answer = self.head();
        self.body(&mut answer);
        answer
    }

    /// Gets a path.
    pub fn get(&mut self, path: &str) -> Answer {
        self.ask("GET", path, &[], "")
    }

    /// Posts JSON.
    pub fn post(&mut self, path: &str, body: &Value) -> Answer {
        self.ask("POST", path, &[], &body.to_string())
    }

    /// Status and headers of the next answer.
    ///
    /// # Panics
    /// When none comes.
    pub fn head(&mut self) -> Answer {
        let line = self.line();
        let status = line.split(' ').nth(1).and_then(|status| status.parse().ok());
        let status = status.unwrap_or_else(|| panic!("no status line: {line:?}"));
        let mut headers = Vec::new();
        loop {
            let line = self.line();
            let Some((name, value)) = line.split_once(':') else { break };
            headers.push((name.to_ascii_lowercase(), value.trim().to_owned()));
        }
        Answer { status, headers, body: String::new() }
    }

    /// The next line, without its end.
    ///
    /// # Panics
    /// When none comes in time.
    pub fn line(&mut self) -> String {
        let mut line = String::new();
        match self.reader.read_line(&mut line) {
            Err(error) if error.kind() != ErrorKind::ConnectionReset => {
                panic!("no line in time: {error}")
            }
            _ => line.trim_end().to_owned(),
        }
    }

    /// The next chunk of a chunked body; nothing at its end.
    ///
    /// # Panics
    /// When none comes in time.
    pub fn chunk(&mut self) -> Option<String> {
        let size = usize::from_str_radix(&self.line(), 16).unwrap_or(0);
        let mut bytes = vec![0; size + 2];
        self.reader.read_exact(&mut bytes).ok()?;
        bytes.truncate(size);
        (size > 0).then(|| String::from_utf8_lossy(&bytes).into_owned())
    }

    fn body(&mut self, answer: &mut Answer) {
        if answer.header("transfer-encoding") == Some("chunked") {
            while let Some(chunk) = self.chunk() {
                answer.body.push_str(&chunk);
            }
        } else if let Some(length) = answer.header("content-length") {
            let mut bytes = vec![0; length.parse().expect("a length")];
            self.reader.read_exact(&mut bytes).expect("a whole body");
            answer.body = String::from_utf8_lossy(&bytes).into_owned();
        }
    }

    /// Whether the daemon has closed the connection, once all before that is read.
    #[must_use]
    pub fn is_closed(&mut self) -> bool {
        matches!(self.reader.read(&mut [0]), Ok(0) | Err(_))
    }
}

impl Answer {
    /// A header's value.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(found, _)| found == name).map(|(_, value)| value.as_str())
    }

    /// The body as JSON.
    ///
    /// # Panics
    /// When it is not JSON.
    #[must_use]
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.body)
            .unwrap_or_else(|error| panic!("not JSON ({error}): {self:?}"))
    }

    /// The answer, if its status is this.
    ///
    /// # Panics
    /// When it is another.
    #[must_use]
    pub fn expect(self, status: u16) -> Self {
        assert_eq!(self.status, status, "{self:?}");
        self
    }

    /// The `data` of each event of a stream.
    #[must_use]
    pub fn events(&self) -> Vec<String> {
        let lines = self.body.lines().filter_map(|line| line.strip_prefix("data: "));
        lines.map(str::to_owned).collect()
    }
}
