//! A small HTTP client over a Unix socket or TCP that can also send malformed requests.

use std::io::{BufRead, BufReader, ErrorKind, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use serde_json::Value;

use crate::Home;

/// Seconds to wait for an answer before the test fails.
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

/// A response.
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
    /// When no server listens.
    #[must_use]
    pub fn tcp(address: &str) -> Self {
        let stream = TcpStream::connect(address).expect("the daemon listens");
        stream.set_read_timeout(Some(ANSWER_LIMIT)).expect("a read limit");
        Self { reader: BufReader::new(Stream::Tcp(stream)) }
    }

    /// Sends bytes as they are; a peer that closes before it has read all is no failure.
    pub fn send(&mut self, bytes: &[u8]) {
        let _ = match self.reader.get_mut() {
            Stream::Unix(stream) => stream.write_all(bytes),
            Stream::Tcp(stream) => stream.write_all(bytes),
        };
    }

    /// Closes the sending half of the connection.
    pub fn finish_sending(&mut self) {
        let _ = match self.reader.get_mut() {
            Stream::Unix(stream) => stream.shutdown(Shutdown::Write),
            Stream::Tcp(stream) => stream.shutdown(Shutdown::Write),
        };
    }

    /// Sends a request with these headers; a body has the content type JSON.
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

    /// Sends a request and reads the whole response. The connection can be used again.
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

    /// Sends a GET request.
    pub fn get(&mut self, path: &str) -> Answer {
        self.ask("GET", path, &[], "")
    }

    /// Sends a POST request with a JSON body.
    pub fn post(&mut self, path: &str, body: &Value) -> Answer {
        self.ask("POST", path, &[], &body.to_string())
    }

    /// The status and headers of the next response.
    ///
    /// # Panics
    /// When no response arrives.
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
    /// When none arrives in time.
    pub fn line(&mut self) -> String {
        let mut line = String::new();
        match self.reader.read_line(&mut line) {
            Err(error) if error.kind() != ErrorKind::ConnectionReset => {
                panic!("no line in time: {error}")
            }
            _ => line.trim_end().to_owned(),
        }
    }

    /// The next chunk of a chunked body, `None` at its end.
    ///
    /// # Panics
    /// When none arrives in time.
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

    /// Reads what is left and returns whether the daemon has closed the connection.
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
    /// When the body is not JSON.
    #[must_use]
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.body)
            .unwrap_or_else(|error| panic!("not JSON ({error}): {self:?}"))
    }

    /// Returns the response if it has this status.
    ///
    /// # Panics
    /// When the status is another.
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
