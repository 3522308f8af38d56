//! Server-sent events: one stream of chunks per streamed request.
//!
//! Owns a stream's life: the moment that fixes its status, comments during silence, its one error
//! event and its end. A [`ChunkFormat`] owns what the chunks hold.
//!
//! A stream is a task of its own, so that a slow client delays no other request: the client fills a
//! bounded channel, the task waits, and the engine continues without it. A client that disconnects
//! ends the task, and its generation with it.

use std::convert::Infallible;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::http::HeaderValue;
use axum::http::header::{CACHE_CONTROL, CONTENT_TYPE, HeaderName};
use axum::response::Response;
use futures_util::{FutureExt, stream};
use ingle_protocol::error::{ErrorBody, ErrorCode};
use ingle_protocol::wire::generate::{GenerateEvent, GenerateParams, GenerateResult};
use ingle_service::metrics::Outcome;
use ingle_service::request::{RequestContext, named};
use serde::Serialize;
use serde_json::json;
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;
use tracing::{Instrument, Span};

use super::api::Api;
use super::middleware::SharedTimer;
use super::problem::{Problem, openai_error, with_openai_names};
use crate::limits;

/// The chunks that an endpoint streams.
pub(super) trait ChunkFormat: Send + 'static {
    /// The stream begins, with the name of the model.
    fn open(&mut self, model: &str, out: &mut EventBuffer);
    /// An event of the generation for a prompt.
    fn event(&mut self, prompt: usize, event: GenerateEvent, out: &mut EventBuffer);
    /// The generation for a prompt has ended, after all of its events.
    fn finish(&mut self, prompt: usize, result: &GenerateResult, out: &mut EventBuffer);
    /// All generations have ended.
    fn close(&mut self, out: &mut EventBuffer);
}

/// Events that are not sent yet, as bytes.
#[derive(Debug, Default)]
pub(super) struct EventBuffer(Vec<u8>);

impl EventBuffer {
    /// The bytes so far.
    #[cfg(test)]
    pub(super) fn bytes(&self) -> &[u8] {
        &self.0
    }

    /// Adds an event.
    pub(super) fn data(&mut self, value: &impl Serialize) {
        self.0.extend_from_slice(b"data: ");
        // Plain data with string keys can always be serialized.
        let _ = serde_json::to_writer(&mut self.0, value);
        self.0.extend_from_slice(b"\n\n");
    }
}

/// The client has disconnected.
struct Disconnected;

/// Starts the generations and responds with a stream of their events.
///
/// An error before the first token, or within the first second, is an HTTP status. A later error is
/// an event of the stream.
pub(super) async fn respond(
    api: Arc<Api>,
    context: RequestContext,
    timer: &SharedTimer,
    all: Vec<GenerateParams>,
    format: impl ChunkFormat,
) -> Result<Response, Problem> {
    let (chunks, mut body) = mpsc::channel::<Bytes>(limits::HTTP_STREAM_CHUNKS);
    let (committed, commit) = oneshot::channel();
    let client = chunks.clone();
    let tracker = api.tracker.clone();
    // The end of the stream is the end of the request. Dropping the timer counts it as cancelled.
    let timer = timer.take();
    let mut stream = SseStream {
        id: context.id.clone(),
        chunks,
        committed: Some(committed),
        quiet_since: Instant::now(),
        format,
        buffer: EventBuffer::default(),
    };
    let task = async move {
        tokio::select! {
            biased;
            () = client.closed() => {}
            outcome = stream.run(&api, &context, all) => {
                if let (Ok(outcome), Some(timer)) = (outcome, timer) {
                    timer.end(outcome);
                }
            }
        }
    };
    tracker.spawn(task.instrument(Span::current()));
    match commit.await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => return Err(error.into()),
        Err(_) => return Err(ErrorBody::new(ErrorCode::Internal, "the stream broke").into()),
    }
    let chunks = stream::poll_fn(move |context| {
        body.poll_recv(context).map(|chunk| chunk.map(Ok::<_, Infallible>))
    });
    let mut response = Response::new(Body::from_stream(chunks));
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/event-stream"));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    // Without this, some proxies buffer events.
    let buffering = HeaderName::from_static("x-accel-buffering");
    headers.insert(buffering, HeaderValue::from_static("no"));
    Ok(response)
}

/// The sending side of one stream.
struct SseStream<F> {
    /// The request's id.
    id: String,
    chunks: mpsc::Sender<Bytes>,
    /// Reports whether the stream begins or fails with a status; taken when that is decided.
    committed: Option<oneshot::Sender<Result<(), ErrorBody>>>,
    /// When the last bytes were sent, or the request was accepted.
    quiet_since: Instant,
    format: F,
    buffer: EventBuffer,
}

impl<F: ChunkFormat> SseStream<F> {
    /// Sends the whole stream, and returns the outcome of the request.
    async fn run(
        &mut self,
        api: &Api,
        context: &RequestContext,
        all: Vec<GenerateParams>,
    ) -> Result<Outcome, Disconnected> {
        let sent = AssertUnwindSafe(self.send_events(api, context, all)).catch_unwind().await;
        // A stream that a panic cuts off must not look complete.
        match sent.unwrap_or_else(|_| Ok(Err(self.after_panic())))? {
            Ok(()) => {
                self.buffer.0.extend_from_slice(b"data: [DONE]\n\n");
                self.flush().await?;
                Ok(Ok(()))
            }
            Err(error) => {
                let code = error.code;
                self.fail(error).await?;
                Ok(Err(code))
            }
        }
    }

    /// The error of a stream that a panic has ended. The unfinished event is dropped.
    fn after_panic(&mut self) -> ErrorBody {
        self.buffer = EventBuffer::default();
        ErrorBody::new(ErrorCode::Internal, "the stream's task panicked")
    }

    /// Sends everything but the last event. The inner error ends the stream.
    async fn send_events(
        &mut self,
        api: &Api,
        context: &RequestContext,
        all: Vec<GenerateParams>,
    ) -> Result<Result<(), ErrorBody>, Disconnected> {
        let generations = match self.waiting(api.start(context, all)).await? {
            Ok(generations) => generations,
            Err(error) => return Ok(Err(error)),
        };
        let model = generations.model;
        let mut is_open = false;
        for (prompt, mut generation) in generations.running.into_iter().enumerate() {
            while let Some(event) = self.waiting(generation.event()).await? {
                if matches!(event, GenerateEvent::Queued { .. } | GenerateEvent::Loading { .. }) {
                    continue;
                }
                if !std::mem::replace(&mut is_open, true) {
                    self.format.open(&model, &mut self.buffer);
                }
                self.format.event(prompt, event, &mut self.buffer);
                self.flush().await?;
            }
            let (rest, result) = match self.waiting(generation.finish()).await? {
                Ok(ended) => ended,
                Err(error) => return Ok(Err(error)),
            };
            if !std::mem::replace(&mut is_open, true) {
                self.format.open(&model, &mut self.buffer);
            }
            for event in rest {
                self.format.event(prompt, event, &mut self.buffer);
            }
            self.format.finish(prompt, &result, &mut self.buffer);
            self.flush().await?;
        }
        self.format.close(&mut self.buffer);
        Ok(Ok(()))
    }

    /// Waits for `event`, and sends comments meanwhile so that the connection stays open.
    ///
    /// The first comment also commits the stream to status 200. Until then, for
    /// [`limits::HTTP_COMMIT_MS`], an error can still become a status.
    async fn waiting<T>(&mut self, event: impl Future<Output = T>) -> Result<T, Disconnected> {
        let mut event = std::pin::pin!(event);
        loop {
            let silence = match &self.committed {
                Some(_) => limits::HTTP_COMMIT_MS,
                None => limits::HTTP_HEARTBEAT_MS,
            };
            // Events that are not sent, as those of a load, do not end the silence.
            let until = self.quiet_since + Duration::from_millis(silence);
            tokio::select! {
                // An event counts before a comment that is due at the same moment.
                biased;
                event = &mut event => return Ok(event),
                () = tokio::time::sleep_until(until) => {
                    self.buffer.0.extend_from_slice(b": keep-alive\n\n");
                    self.flush().await?;
                }
            }
        }
    }

    /// Sends the buffer. The first bytes commit the stream to status 200.
    async fn flush(&mut self) -> Result<(), Disconnected> {
        if self.buffer.0.is_empty() {
            return Ok(());
        }
        if let Some(committed) = self.committed.take() {
            committed.send(Ok(())).map_err(|_| Disconnected)?;
        }
        self.quiet_since = Instant::now();
        let bytes = std::mem::take(&mut self.buffer.0);
        self.chunks.send(Bytes::from(bytes)).await.map_err(|_| Disconnected)
    }

    /// Ends the stream with an error: as its status if that is still open, or else as an event.
    async fn fail(&mut self, error: ErrorBody) -> Result<(), Disconnected> {
        let error = with_openai_names(named(error, &self.id));
        if let Some(committed) = self.committed.take() {
            return committed.send(Err(error)).map_err(|_| Disconnected);
        }
        let mut object = openai_error(&error);
        for field in ["timeout_seconds", "layer"] {
            if !error.details[field].is_null() {
                object[field] = error.details[field].clone();
            }
        }
        object["remediation"] = json!(error.remediation());
        object["retryable"] = json!(error.retryable);
        object["request_id"] = json!(error.request_id);
        self.buffer.0.extend_from_slice(b"event: error\n");
        self.buffer.data(&json!({ "error": object }));
        self.flush().await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct NoChunks;

    impl ChunkFormat for NoChunks {
        fn open(&mut self, _: &str, _: &mut EventBuffer) {}
        fn event(&mut self, _: usize, _: GenerateEvent, _: &mut EventBuffer) {}
        fn finish(&mut self, _: usize, _: &GenerateResult, _: &mut EventBuffer) {}
        fn close(&mut self, _: &mut EventBuffer) {}
    }

    #[tokio::test]
    async fn panic_ends_stream_with_error_event() {
        let (chunks, mut body) = mpsc::channel(4);
        let mut stream = SseStream {
            id: "7-1".to_owned(),
            chunks,
            committed: None,
            quiet_since: Instant::now(),
            format: NoChunks,
            buffer: EventBuffer(b"data: {\"half".to_vec()),
        };
        let error = stream.after_panic();
        assert!(stream.fail(error).await.is_ok());
        drop(stream);
        let mut text = String::new();
        while let Some(bytes) = body.recv().await {
            text.push_str(std::str::from_utf8(&bytes).unwrap());
        }
        assert!(text.starts_with("event: error\ndata: {"), "{text}");
        assert!(text.contains("server_error") && !text.contains("[DONE]"), "{text}");
    }
}
