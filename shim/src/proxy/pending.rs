//! Pending requests: the ids that the host waits for.
//!
//! Owns the deadline of each, and writes the reply when the daemon cannot, or does not in time (2
//! W): a pure data structure that does no I/O and reads no clock. Does not know how frames travel.
//!
//! A frame is noted when it is taken from the host and marked when its first byte is written. When
//! a connection is lost, marked requests are answered ([`Pending::lose`]), because it is unknown
//! whether they were carried out; the proxy sends the others again, or gives them up
//! ([`Pending::refuse`]). A request whose limit expires while the daemon has it is answered
//! ([`Pending::expire`]) and its id stays here: the daemon's own reply, if it comes, is dropped.

use std::collections::VecDeque;
use std::time::Instant;

use ingle_protocol::deadline::Deadline;
use ingle_protocol::error::{ErrorBody, ErrorCode};
use ingle_protocol::jsonrpc::{Line, Message, RequestId, error_reply, frame_of};
use ingle_protocol::mcp_tools;
use ingle_protocol::timeouts::{self, Layer, WorkTimeouts};
use ingle_protocol::wire::Method;
use ingle_protocol::wire::class::{CallTime, call_time};
use ingle_protocol::wire::jobs::{CancelJob, CreateJob, DeleteJobs};
use ingle_protocol::wire::models::{LoadModel, PullModel, UnloadModel};
use ingle_protocol::wire::status::Shutdown;
use serde_json::value::RawValue;

use super::message_fields;

#[cfg(test)]
mod tests;

/// The number of a frame, in the order in which the host sent them.
pub(crate) type FrameNumber = u64;

#[derive(Debug)]
struct PendingRequest {
    id: RequestId,
    /// The id as the host wrote it: replies repeat it to the letter.
    raw_id: Box<RawValue>,
    frame: FrameNumber,
    in_batch: bool,
    written: bool,
    changes_state: bool,
    /// Whether it is a tool call: of a model, which has tools and no terminal.
    is_tool: bool,
    time: CallTime,
    deadline: Deadline,
    /// The time when it is answered here: its limit; in a batch the latest limit, because a batch
    /// has one reply.
    due_at: Instant,
    /// Whether it was answered because its limit expired; the daemon may still answer it too.
    expired: bool,
}

/// The status of a reply of the daemon.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ReplyStatus {
    /// It answers a pending request.
    Awaited,
    /// No request waits for it: it is unknown, or has been answered already.
    Unwanted,
}

/// Requests whose limit has expired.
#[derive(Debug, Default)]
pub(crate) struct ExpiredRequests {
    /// One reply frame for every frame.
    pub(crate) answers: Vec<Vec<u8>>,
    /// Frames that were not written and have no other request left.
    pub(crate) unsent: Vec<FrameNumber>,
    /// Ids, as the host wrote them, of requests that the daemon has and should cancel.
    pub(crate) given_up: Vec<Box<RawValue>>,
}

/// The pending requests, oldest first.
#[derive(Debug, Default)]
pub(crate) struct Pending {
    entries: VecDeque<PendingRequest>,
}

impl Pending {
    /// Notes every request of a frame at `now`, each with the shim's limit for it.
    ///
    /// # Errors
    /// The reply to send when there are too many, or an id would be mistaken for another.
    pub(crate) fn note(
        &mut self,
        frame: FrameNumber,
        line: &Line<'_>,
        timeouts: &WorkTimeouts,
        now: Instant,
    ) -> Result<(), Vec<u8>> {
        let in_batch = matches!(line, Line::Batch(_));
        let before = self.entries.len();
        self.entries.extend(line.messages().iter().filter_map(|message| {
            let (method, id) = message.as_answerable()?;
            let time = call_time(method, message.params());
            let deadline = deadline(&time, timeouts, now);
            Some(PendingRequest {
                id: RequestId::read(id),
                raw_id: id.to_owned(),
                frame,
                in_batch,
                written: false,
                changes_state: changes_state(method, message),
                is_tool: method == "tools/call",
                time,
                deadline,
                due_at: deadline.expires_at(),
                expired: false,
            })
        }));
        if in_batch {
            self.align();
        }
        let in_flight = self.len();
        let error = if in_flight > crate::limits::SHIM_PENDING {
            let before = in_flight - (self.entries.len() - before);
            ErrorBody::overloaded(format!("{before} requests are in flight on this connection"))
        } else if self.entries.range(before..).any(|entry| self.is_late(&entry.id, before)) {
            let message = "an earlier request of this id timed out, and the daemon has not ended \
                           it yet";
            ErrorBody::new(ErrorCode::InvalidRequest, message)
                .with_remediation("Give every request an id of its own.")
        } else {
            return Ok(());
        };
        let refused: Vec<PendingRequest> = self.entries.drain(before..).collect();
        Err(answer(&refused, |_| error.clone()))
    }

    /// Applies the daemon's ladder to all pending requests.
    pub(crate) fn retime(&mut self, timeouts: &WorkTimeouts) {
        for entry in &mut self.entries {
            entry.deadline = deadline(&entry.time, timeouts, entry.deadline.accepted_at);
            entry.due_at = entry.deadline.expires_at();
        }
        self.align();
    }

    /// Makes the requests of a batch due together, at the latest limit of them.
    fn align(&mut self) {
        for frame in self.entries.make_contiguous().chunk_by_mut(|a, b| a.frame == b.frame) {
            let Some(due_at) = frame.iter().map(|entry| entry.due_at).max() else { continue };
            frame.iter_mut().for_each(|entry| entry.due_at = due_at);
        }
    }

    /// Whether the daemon may still answer an expired request of this id.
    fn is_late(&self, id: &RequestId, before: usize) -> bool {
        self.entries.range(..before).any(|entry| entry.expired && entry.id == *id)
    }

    /// The time when the next limit expires.
    pub(crate) fn next_due(&self) -> Option<Instant> {
        self.live().map(|entry| entry.due_at).min()
    }

    /// Answers the requests whose limit has expired by `now`.
    pub(crate) fn expire(&mut self, now: Instant) -> ExpiredRequests {
        let mut expired = ExpiredRequests::default();
        if self.next_due().is_none_or(|due_at| due_at > now) {
            return expired;
        }
        let is_due = |entry: &PendingRequest| !entry.expired && entry.due_at <= now;
        let error = |entry: &PendingRequest| timeout_error(entry, now);
        let due: Vec<&PendingRequest> = self.entries.iter().filter(|entry| is_due(entry)).collect();
        for frame in due.chunk_by(|a, b| a.frame == b.frame) {
            expired.answers.push(answer(frame.iter().copied(), error));
            match frame {
                [first, ..] if !first.written => expired.unsent.push(first.frame),
                sent => {
                    expired.given_up.extend(sent.iter().map(|entry| entry.raw_id.clone()));
                }
            }
        }
        self.entries.retain(|entry| entry.written || !is_due(entry));
        for entry in self.entries.iter_mut().filter(|entry| entry.due_at <= now) {
            entry.expired = true;
        }
        // A daemon that never answers must not fill the memory.
        let mut over = self.entries.iter().filter(|entry| entry.expired).count();
        self.entries.retain(|entry| {
            let is_over = entry.expired && over > crate::limits::SHIM_PENDING;
            over -= usize::from(is_over);
            !is_over
        });
        expired
    }

    /// Forgets expired requests: an MCP server does not answer a cancelled request.
    pub(crate) fn forget_expired(&mut self) {
        self.entries.retain(|entry| !entry.expired);
    }

    /// Milliseconds left at `now` for the only request of a frame, if it has waited so long that
    /// the daemon must know.
    pub(crate) fn remaining_ms(&self, frame: FrameNumber, now: Instant) -> Option<u64> {
        let entry = self.entries.iter().find(|entry| entry.frame == frame && !entry.in_batch)?;
        let Deadline { work_ms, .. } = entry.deadline;
        let has_waited = entry.deadline.elapsed_ms(now) > timeouts::margin_ms(work_ms);
        has_waited.then(|| entry.deadline.remaining_ms(now))
    }

    /// Marks a frame whose first byte is being written.
    pub(crate) fn mark_written(&mut self, frame: FrameNumber) {
        for entry in self.entries.iter_mut().filter(|entry| entry.frame == frame) {
            entry.written = true;
        }
    }

    /// Settles the request that a reply answers. Of two requests of one id the older one is
    /// settled. A reply under null settles the oldest request whose id the daemon may be unable to
    /// repeat.
    pub(crate) fn settle(&mut self, id: &RequestId) -> ReplyStatus {
        let place = self.entries.iter().position(|entry| {
            entry.written
                && (entry.id == *id || (*id == RequestId::Null && entry.id.may_come_back_as_null()))
        });
        match place.and_then(|place| self.entries.remove(place)) {
            Some(entry) if !entry.expired => ReplyStatus::Awaited,
            _ => ReplyStatus::Unwanted,
        }
    }

    /// Forgets a cancelled request (MCP does not answer it).
    pub(crate) fn forget(&mut self, id: &RequestId) {
        self.entries.retain(|entry| entry.expired || entry.id != *id);
    }

    /// Withdraws requests of this id that are not written and are alone in their frames, which the
    /// caller drops. Returns each one's frame and its id as the host wrote it.
    pub(crate) fn withdraw(&mut self, id: &RequestId) -> Vec<(FrameNumber, Box<RawValue>)> {
        let (withdrawn, kept): (Vec<_>, Vec<_>) = std::mem::take(&mut self.entries)
            .into_iter()
            .partition(|entry| entry.id == *id && !entry.written && !entry.in_batch);
        self.entries = kept.into();
        withdrawn.into_iter().map(|entry| (entry.frame, entry.raw_id)).collect()
    }

    /// The connection is lost: returns one reply frame for every frame of which a byte was written.
    /// No late reply can come any more.
    pub(crate) fn lose(&mut self) -> Vec<Vec<u8>> {
        self.entries.retain(|entry| !entry.expired);
        self.answer_all(|entry| entry.written, lost_error)
    }

    /// Gives up the waiting requests: returns one reply frame for every frame that was not written.
    pub(crate) fn refuse(&mut self, error: &ErrorBody) -> Vec<Vec<u8>> {
        self.answer_all(|entry| !entry.written, |_| error.clone())
    }

    /// The replies to all pending requests at `now`, when the daemon's can no longer come.
    pub(crate) fn answer_rest(&mut self, now: Instant) -> Vec<Vec<u8>> {
        self.answer_all(|entry| !entry.expired, |entry| timeout_error(entry, now))
    }

    /// The number of pending requests.
    pub(crate) fn len(&self) -> usize {
        self.live().count()
    }

    /// The time when the last limit expires.
    pub(crate) fn last_due(&self) -> Option<Instant> {
        self.live().map(|entry| entry.due_at).max()
    }

    fn live(&self) -> impl Iterator<Item = &PendingRequest> {
        self.entries.iter().filter(|entry| !entry.expired)
    }

    fn answer_all(
        &mut self,
        wanted: impl Fn(&PendingRequest) -> bool,
        error: impl Fn(&PendingRequest) -> ErrorBody,
    ) -> Vec<Vec<u8>> {
        let (answered, kept): (Vec<_>, Vec<_>) =
            std::mem::take(&mut self.entries).into_iter().partition(wanted);
        self.entries = kept.into();
        let frames = answered.chunk_by(|a, b| a.frame == b.frame);
        frames.map(|frame| answer(frame.iter(), &error)).collect()
    }
}

/// The reply frame, newline included, to requests of one frame.
fn answer<'a>(
    entries: impl IntoIterator<Item = &'a PendingRequest>,
    error: impl Fn(&PendingRequest) -> ErrorBody,
) -> Vec<u8> {
    let mut in_batch = false;
    let replies = entries.into_iter().map(|entry| {
        in_batch = entry.in_batch;
        let error = error(entry);
        // A model sees the message, and has no terminal.
        let error = if entry.is_tool { mcp_tools::rpc_error(&error) } else { error.to_rpc() };
        error_reply(entry.raw_id.get(), &error)
    });
    let replies: Vec<String> = replies.collect();
    frame_of(&replies, in_batch)
}

fn timeout_error(entry: &PendingRequest, now: Instant) -> ErrorBody {
    let Deadline { limit_ms, .. } = entry.deadline;
    let error =
        ErrorBody::timeout("the request", Layer::Shim, limit_ms, entry.deadline.elapsed_ms(now));
    if entry.written { as_careful(error, entry) } else { error }
}

fn lost_error(entry: &PendingRequest) -> ErrorBody {
    let error =
        ErrorBody::new(ErrorCode::DaemonLost, "the daemon ended before it answered this request");
    as_careful(error, entry)
}

/// Marks the error of a request that may have been carried out as not retryable.
fn as_careful(error: ErrorBody, entry: &PendingRequest) -> ErrorBody {
    if !entry.changes_state {
        return error;
    }
    let mut error = error.with_remediation(if entry.is_tool {
        "It may have been carried out: call server_status, list_models and job_list before you \
         call it again."
    } else {
        "It may have been carried out: check `ingle ps`, `ingle models` and `ingle jobs list` \
         before you send it again."
    });
    error.retryable = false;
    error
}

fn deadline(time: &CallTime, timeouts: &WorkTimeouts, noted_at: Instant) -> Deadline {
    Deadline::new(Layer::Shim, time.work_ms(timeouts), time.budget, noted_at)
}

fn changes_state(method: &str, message: &Message<'_>) -> bool {
    const METHODS: &[&str] = &[
        LoadModel::NAME,
        UnloadModel::NAME,
        PullModel::NAME,
        Shutdown::NAME,
        CreateJob::NAME,
        CancelJob::NAME,
        DeleteJobs::NAME,
    ];
    match method {
        "tools/call" => {
            message_fields::tool(message).is_none_or(|name| mcp_tools::tool(&name).changes_state)
        }
        method => METHODS.contains(&method),
    }
}
