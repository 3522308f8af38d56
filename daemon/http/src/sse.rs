//! Server-sent events.
//!
//! Owns a stream's life: when it is committed to a status, its comments while nothing happens, its
//! one error event, and its end. What an event says is its [`Script`]'s.
//!
//! A stream is a task of its own, so that its reader's pace is nobody else's: a reader that is slow
//! fills a bounded channel, the task waits, and the engine goes on without it. A reader that goes
//! ends the task, and the work with it.

use std::convert::Infallible;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use crate::limits;
use axum::body::{Body, Bytes};
use axum::http::HeaderValue;
use axum::http::header::{CACHE_CONTROL, CONTENT_TYPE, HeaderName};
use axum::response::Response;
use futures_util::{FutureExt, stream};
use ingle_protocol::error::{ErrorBody, ErrorCode};
use ingle_protocol::wire::generate::{GenerateEvent, GenerateParams, GenerateResult};
use serde::Serialize;
use serde_json::json;
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;

use super::Edge;
use super::gate::Asked;
use super::problem::{Problem, in_openais_words, openai_error};
use ingle_service::metrics::Outcome;
use ingle_service::request::{RequestContext, named};

/// What the events of a stream say.
pub(super) trait Script: Send + 'static {
    /// The stream has begun, and `model` answers.
    fn open(&mut self, model: &str, out: &mut Frames);
    /// Something happened to the generation for a prompt.
    fn event(&mut self, prompt: usize, event: GenerateEvent, out: &mut Frames);
    /// A prompt's generation has ended; all of its events came before.
    fn finish(&mut self, prompt: usize, result: &GenerateResult, out: &mut Frames);
    /// All have.
    fn close(&mut self, out: &mut Frames);
}

/// Events on their way out.
#[derive(Debug, Default)]
pub(super) struct Frames(Vec<u8>);

impl Frames {
    /// What there is.
    #[cfg(test)]
    pub(super) fn bytes(&self) -> &[u8] {
        &self.0
    }

    /// Adds an event.
    pub(super) fn data(&mut self, value: &impl Serialize) {
        self.0.extend_from_slice(b"data: ");
        // Plain data with string keys can always be written.
        let _ = serde_json::to_writer(&mut self.0, value);
        self.0.extend_from_slice(b"\n\n");
    }
}

/// The reader has gone.
struct Gone;

/// Starts the generations and answers with a stream of their events. An error that comes before
/// the first token, or within the first second, is a proper status; later it is an event.
pub(super) async fn respond(
    edge: Arc<Edge>,
    context: RequestContext,
    asked: Asked,
    all: Vec<GenerateParams>,
    script: impl Script,
) -> Result<Response, Problem> {
    let (chunks, mut body) = mpsc::channel::<Bytes>(limits::HTTP_STREAM_CHUNKS);
    let (started, begun) = oneshot::channel();
    let reader = chunks.clone();
    let tracker = edge.tracker.clone();
    // The stream's end is the request's. One that its reader leaves counts as cancelled.
    let counting = asked.take();
    let mut outlet = Outlet {
        id: asked.id.clone(),
        chunks,
        started: Some(started),
        quiet_since: Instant::now(),
        script,
        frames: Frames::default(),
    };
    tracker.spawn(async move {
        tokio::select! {
            biased;
            () = reader.closed() => {}
            outcome = outlet.tell(&edge, &context, all) => {
                if let (Ok(outcome), Some(counting)) = (outcome, counting) {
                    counting.end(outcome);
                }
            }
        }
    });
    match begun.await {
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
    // Proxies would collect events otherwise.
    let buffering = HeaderName::from_static("x-accel-buffering");
    headers.insert(buffering, HeaderValue::from_static("no"));
    Ok(response)
}

/// The sending side of one stream.
struct Outlet<S> {
    id: String,
    chunks: mpsc::Sender<Bytes>,
    /// Says whether the stream begins; used up once that is decided.
    started: Option<oneshot::Sender<Result<(), ErrorBody>>>,
    /// When the last bytes were sent, or the request was accepted.
    quiet_since: Instant,
    script: S,
    frames: Frames,
}

impl<S: Script> Outlet<S> {
    /// The whole stream. Gives how the request ended.
    async fn tell(
        &mut self,
        edge: &Edge,
        context: &RequestContext,
        all: Vec<GenerateParams>,
    ) -> Result<Outcome, Gone> {
        let events = AssertUnwindSafe(self.events(edge, context, all)).catch_unwind().await;
        // A stream that a bug cuts off must not look as if it were complete.
        match events.unwrap_or_else(|_| Ok(Err(self.broken())))? {
            Ok(()) => {
                self.frames.0.extend_from_slice(b"data: [DONE]\n\n");
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

    /// The error of a stream that a bug has ended. The event that was being made is dropped.
    fn broken(&mut self) -> ErrorBody {
        self.frames = Frames::default();
        ErrorBody::new(ErrorCode::Internal, "the stream's task panicked")
    }

    /// Everything but how it ends.
    async fn events(
        &mut self,
        edge: &Edge,
        context: &RequestContext,
        all: Vec<GenerateParams>,
    ) -> Result<Result<(), ErrorBody>, Gone> {
        let started = match self.awaiting(edge.start(context, all)).await? {
            Ok(started) => started,
            Err(error) => return Ok(Err(error)),
        };
        let model = started.model;
        let mut is_open = false;
        for (prompt, mut generation) in started.generations.into_iter().enumerate() {
            while let Some(event) = self.awaiting(generation.event()).await? {
                if matches!(event, GenerateEvent::Queued { .. } | GenerateEvent::Loading { .. }) {
                    continue;
                }
                if !std::mem::replace(&mut is_open, true) {
                    self.script.open(&model, &mut self.frames);
                }
                self.script.event(prompt, event, &mut self.frames);
                self.flush().await?;
            }
            let (rest, result) = match self.awaiting(generation.finish()).await? {
                Ok(ended) => ended,
                Err(error) => return Ok(Err(error)),
            };
            if !std::mem::replace(&mut is_open, true) {
                self.script.open(&model, &mut self.frames);
            }
            for event in rest {
                self.script.event(prompt, event, &mut self.frames);
            }
            self.script.finish(prompt, &result, &mut self.frames);
            self.flush().await?;
        }
        self.script.close(&mut self.frames);
        Ok(Ok(()))
    }

    /// Waits for something, and lets the reader and all proxies know that it is waited for.
    async fn awaiting<T>(&mut self, event: impl Future<Output = T>) -> Result<T, Gone> {
        let mut event = std::pin::pin!(event);
        loop {
            let silence = match &self.started {
                Some(_) => limits::HTTP_COMMIT_MS,
                None => limits::HTTP_HEARTBEAT_MS,
            };
            // Events that are not shown, as those of a load, do not break the silence.
            let until = self.quiet_since + Duration::from_millis(silence);
            tokio::select! {
                biased;
                event = &mut event => return Ok(event),
                () = tokio::time::sleep_until(until) => {
                    self.frames.0.extend_from_slice(b": keep-alive\n\n");
                    self.flush().await?;
                }
            }
        }
    }

    /// Sends what there is to send. With the first of it the stream has begun.
    async fn flush(&mut self) -> Result<(), Gone> {
        if self.frames.0.is_empty() {
            return Ok(());
        }
        if let Some(started) = self.started.take() {
            started.send(Ok(())).map_err(|_| Gone)?;
        }
        self.quiet_since = Instant::now();
        let bytes = std::mem::take(&mut self.frames.0);
        self.chunks.send(Bytes::from(bytes)).await.map_err(|_| Gone)
    }

    /// Ends the stream with an error: its status if that is still to be decided, or else an event.
    async fn fail(&mut self, error: ErrorBody) -> Result<(), Gone> {
        let error = in_openais_words(named(error, &self.id));
        if let Some(started) = self.started.take() {
            return started.send(Err(error)).map_err(|_| Gone);
        }
        let mut object = openai_error(&error);
        for member in ["timeout_seconds", "layer"] {
            if !error.details[member].is_null() {
                object[member] = error.details[member].clone();
            }
        }
        object["remediation"] = json!(error.remediation());
        object["retryable"] = json!(error.retryable);
        object["request_id"] = json!(error.request_id);
        self.frames.0.extend_from_slice(b"event: error\n");
        self.frames.data(&json!({ "error": object }));
        self.flush().await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Silent;

    impl Script for Silent {
        fn open(&mut self, _: &str, _: &mut Frames) {}
        fn event(&mut self, _: usize, _: GenerateEvent, _: &mut Frames) {}
        fn finish(&mut self, _: usize, _: &GenerateResult, _: &mut Frames) {}
        fn close(&mut self, _: &mut Frames) {}
    }

    #[tokio::test]
    async fn a_bug_ends_a_stream_with_an_error_and_not_with_half_an_event() {
        let (chunks, mut body) = mpsc::channel(4);
        let mut outlet = Outlet {
            id: "7-1".to_owned(),
            chunks,
            started: None,
            quiet_since: Instant::now(),
            script: Silent,
            frames: Frames(b"data: {\"half".to_vec()),
        };
        let error = outlet.broken();
        assert!(outlet.fail(error).await.is_ok());
        drop(outlet);
        let mut text = String::new();
        while let Some(bytes) = body.recv().await {
            text.push_str(std::str::from_utf8(&bytes).unwrap());
        }
        assert!(text.starts_with("event: error\ndata: {"), "{text}");
        assert!(text.contains("server_error") && !text.contains("[DONE]"), "{text}");
    }
}
