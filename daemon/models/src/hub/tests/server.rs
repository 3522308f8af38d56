//! HTTP server for tests: sends given responses, closes connections early and stalls.
//!
//! Owns sockets, threads and the requests so far. Does not know hubs.

use std::collections::HashMap;
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::thread;

/// What a server was asked.
#[derive(Debug, Clone, Default)]
pub(super) struct Request {
    pub(super) path: String,
    headers: HashMap<String, String>,
}

impl Request {
    pub(super) fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", String::as_str)
    }
}

/// What it answers.
#[derive(Debug, Clone, Default)]
pub(super) struct Reply {
    pub(super) status: u16,
    pub(super) headers: Vec<(&'static str, String)>,
    pub(super) body: Vec<u8>,
    /// Bytes of the body after which the connection is cut.
    pub(super) cut: Option<usize>,
    /// Whether it is held open instead, without a word.
    pub(super) stalls: bool,
}

pub(super) fn reply(status: u16, body: impl Into<Vec<u8>>) -> Reply {
    Reply { status, body: body.into(), ..Reply::default() }
}

/// The bytes of a file, from where a request asks for them.
pub(super) fn ranged(request: &Request, bytes: &[u8], tag: &str) -> Reply {
    let from = request.header("range").strip_prefix("bytes=").and_then(|r| r.strip_suffix('-'));
    let from: usize = from.map_or(0, |from| from.parse().unwrap());
    let is_same = request.header("if-range").is_empty() || request.header("if-range") == tag;
    let mut reply = if from > 0 && is_same {
        let range = format!("bytes {from}-{}/{}", bytes.len() - 1, bytes.len());
        Reply { headers: vec![("content-range", range)], ..reply(206, &bytes[from..]) }
    } else {
        reply(200, bytes)
    };
    reply.headers.push(("etag", tag.to_owned()));
    reply
}

type Handler = Box<dyn Fn(&Request) -> Reply + Send>;

/// A server on this machine. It answers until it is dropped.
pub(super) struct Server {
    pub(super) address: String,
    seen: Arc<Mutex<Vec<Request>>>,
    handler: Arc<Mutex<Handler>>,
}

impl Server {
    pub(super) fn new(handler: impl Fn(&Request) -> Reply + Send + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = format!("http://{}", listener.local_addr().unwrap());
        let seen: Arc<Mutex<Vec<Request>>> = Arc::default();
        let handler: Arc<Mutex<Handler>> = Arc::new(Mutex::new(Box::new(handler)));
        let (log, answer) = (Arc::clone(&seen), Arc::downgrade(&handler));
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                // Whoever drops the server connects once more.
                let Some(answer) = answer.upgrade() else { return };
                let log = Arc::clone(&log);
                thread::spawn(move || serve(stream, &log, &answer));
            }
        });
        Self { address, seen, handler }
    }

    pub(super) fn answers(&self, handler: impl Fn(&Request) -> Reply + Send + 'static) {
        *self.handler.lock().unwrap() = Box::new(handler);
    }

    /// What was asked for since the last call.
    pub(super) fn seen(&self) -> Vec<Request> {
        std::mem::take(&mut self.seen.lock().unwrap())
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.handler = Arc::new(Mutex::new(Box::new(|_| Reply::default())));
        let _ = TcpStream::connect(self.address.trim_start_matches("http://"));
    }
}

fn serve(stream: TcpStream, log: &Mutex<Vec<Request>>, answer: &Mutex<Handler>) {
    let mut lines = BufReader::new(&stream).lines().map_while(Result::ok);
    let Some(first) = lines.next() else { return };
    let path = first.split(' ').nth(1).unwrap_or_default().to_owned();
    let headers = lines
        .take_while(|line| !line.is_empty())
        .filter_map(|line| {
            let (name, value) = line.split_once(": ")?;
            Some((name.to_ascii_lowercase(), value.to_owned()))
        })
        .collect();
    let request = Request { path, headers };
    let reply = answer.lock().unwrap()(&request);
    log.lock().unwrap().push(request);
    let mut head = format!("HTTP/1.1 {} x\r\nconnection: close\r\n", reply.status);
    head += &format!("content-length: {}\r\n", reply.body.len());
    for (name, value) in &reply.headers {
        head += &format!("{name}: {value}\r\n");
    }
    let end = reply.cut.unwrap_or(reply.body.len()).min(reply.body.len());
    let mut stream = &stream;
    let _ = stream.write_all((head + "\r\n").as_bytes());
    let _ = stream.write_all(&reply.body[..end]);
    if reply.stalls {
        // Until the other side has had enough.
        let _ = std::io::Read::read(&mut stream, &mut [0]);
    }
}
