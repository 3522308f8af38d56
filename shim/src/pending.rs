//! Ids in flight: what the host still waits for.
//!
//! Owns who is owed an answer until when, and writes those answers when the daemon cannot or does
//! not in time (2 W): a pure data structure that does no I/O and reads no clock. Must not know how
//! frames travel.
//!
//! A frame is noted when it is taken from the host and marked when its first byte is written.
//! When a connection is lost, marked requests are answered ([`Pending::lose`]), because nobody can
//! tell whether they were carried out; the others are still the pump's to send again, or to give up
//! ([`Pending::refuse`]). A request whose limit runs out while the daemon has it is answered
//! ([`Pending::expire`]) and stays here as a memory of its id: the daemon's own answer, if it comes,
//! must reach nobody.

use std::collections::VecDeque;
use std::time::Instant;

use ingle_protocol::deadline::Deadline;
use ingle_protocol::error::{ErrorBody, ErrorCode};
use ingle_protocol::timeouts::{self, Layer, WorkTimeouts};
use ingle_protocol::wire::Method;
use ingle_protocol::wire::class::{CallTime, call_time};
use ingle_protocol::wire::models::{LoadModel, PullModel, UnloadModel};
use ingle_protocol::wire::status::Shutdown;
use ingle_protocol::{limits, tools};
use serde_json::value::RawValue;

use crate::envelope::{Id, Line, Message};

/// A frame's place in the order in which the host sent them.
pub(crate) type FrameNumber = u64;

#[derive(Debug)]
struct Entry {
    id: Id,
    /// The id as the host wrote it: answers repeat it to the letter.
    raw_id: Box<RawValue>,
    frame: FrameNumber,
    in_batch: bool,
    written: bool,
    changes_state: bool,
    time: CallTime,
    deadline: Deadline,
    /// When it is answered at last: its limit, and in a batch the latest one, because a batch has
    /// one answer.
    due_at: Instant,
    /// It has been answered because its limit ran out, and the daemon may still answer it too.
    expired: bool,
}

/// What becomes of a reply of the daemon's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Settled {
    /// It answers a request in flight.
    Awaited,
    /// Nobody waits for it: its request is not known, or has been answered already.
    Unwanted,
}

/// Requests whose limit has run out.
#[derive(Debug, Default)]
pub(crate) struct Expired {
    /// One answer frame for every frame.
    pub(crate) answers: Vec<Vec<u8>>,
    /// Frames that were not written and hold nothing else any more.
    pub(crate) unsent: Vec<FrameNumber>,
    /// Ids, as the host wrote them, of requests that the daemon has and should give up.
    pub(crate) given_up: Vec<Box<RawValue>>,
}

/// The requests in flight, oldest first.
#[derive(Debug, Default)]
pub(crate) struct Pending {
    entries: VecDeque<Entry>,
}

impl Pending {
    /// Notes every request of a frame at `now`, each with the shim's limit for it.
    ///
    /// # Errors
    /// The answer to send when there is no room for them, or an id would be mistaken for another's.
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
            Some(Entry {
                id: Id::read(id),
                raw_id: id.to_owned(),
                frame,
                in_batch,
                written: false,
                changes_state: changes_state(method, message),
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
        let error = if in_flight > limits::SHIM_PENDING {
            let before = in_flight - (self.entries.len() - before);
            ErrorBody::overloaded(format!("{before} requests are in flight on this connection"))
        } else if self.entries.range(before..).any(|entry| self.is_late(&entry.id, before)) {
            let message = "the request before under this id took too long, and the daemon has not \
                           given it up yet";
            ErrorBody::new(ErrorCode::InvalidRequest, message)
                .with_remediation("Give every request an id of its own.")
        } else {
            return Ok(());
        };
        let refused: Vec<Entry> = self.entries.drain(before..).collect();
        Err(answer(&refused, |_| error.clone()))
    }

    /// The daemon has said which ladder holds: the limits of everything in flight follow it.
    pub(crate) fn retime(&mut self, timeouts: &WorkTimeouts) {
        for entry in &mut self.entries {
            entry.deadline = deadline(&entry.time, timeouts, entry.deadline.accepted_at);
            entry.due_at = entry.deadline.expires_at();
        }
        self.align();
    }

    /// The requests of a batch are due together, when the last of them is.
    fn align(&mut self) {
        for frame in self.entries.make_contiguous().chunk_by_mut(|a, b| a.frame == b.frame) {
            let Some(due_at) = frame.iter().map(|entry| entry.due_at).max() else { continue };
            frame.iter_mut().for_each(|entry| entry.due_at = due_at);
        }
    }

    /// Whether the daemon may still answer a request under `id` that has been answered already.
    fn is_late(&self, id: &Id, before: usize) -> bool {
        self.entries.range(..before).any(|entry| entry.expired && entry.id == *id)
    }

    /// When the next limit runs out.
    pub(crate) fn next_due(&self) -> Option<Instant> {
        self.live().map(|entry| entry.due_at).min()
    }

    /// Answers the requests whose limit has run out by `now`.
    pub(crate) fn expire(&mut self, now: Instant) -> Expired {
        let mut expired = Expired::default();
        if self.next_due().is_none_or(|due_at| due_at > now) {
            return expired;
        }
        let is_due = |entry: &Entry| !entry.expired && entry.due_at <= now;
        let error = |entry: &Entry| too_late(entry, now);
        let due: Vec<&Entry> = self.entries.iter().filter(|entry| is_due(entry)).collect();
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
        // A daemon that answers nothing at all must not fill this.
        let mut over = self.entries.iter().filter(|entry| entry.expired).count();
        self.entries.retain(|entry| {
            let is_over = entry.expired && over > limits::SHIM_PENDING;
            over -= usize::from(is_over);
            !is_over
        });
        expired
    }

    /// No answer is to be expected any more to what was answered because its limit ran out: an MCP
    /// server answers no cancelled request.
    pub(crate) fn forget_expired(&mut self) {
        self.entries.retain(|entry| !entry.expired);
    }

    /// Milliseconds that are left at `now` for the request that is alone in a frame, if it has
    /// waited so long that the daemon must be told.
    pub(crate) fn remaining_ms(&self, frame: FrameNumber, now: Instant) -> Option<u64> {
        let entry = self.entries.iter().find(|entry| entry.frame == frame && !entry.in_batch)?;
        let Deadline { work_ms, .. } = entry.deadline;
        let has_waited = entry.deadline.elapsed_ms(now) > timeouts::margin_ms(work_ms);
        has_waited.then(|| entry.deadline.remaining_ms(now))
    }

    /// The first byte of a frame is on its way.
    pub(crate) fn mark_written(&mut self, frame: FrameNumber) {
        for entry in self.entries.iter_mut().filter(|entry| entry.frame == frame) {
            entry.written = true;
        }
    }

    /// A reply to `id` has come. Where an id is in use twice, the older request is settled. A reply
    /// under null settles the oldest request whose id the daemon may not have been able to repeat.
    pub(crate) fn settle(&mut self, id: &Id) -> Settled {
        let place = self.entries.iter().position(|entry| {
            entry.written
                && (entry.id == *id || (*id == Id::Other && entry.id.may_come_back_as_null()))
        });
        match place.and_then(|place| self.entries.remove(place)) {
            Some(entry) if !entry.expired => Settled::Awaited,
            _ => Settled::Unwanted,
        }
    }

    /// The host no longer wants an answer to `id` (MCP: a cancelled request gets none).
    pub(crate) fn forget(&mut self, id: &Id) {
        self.entries.retain(|entry| entry.expired || entry.id != *id);
    }

    /// Takes back requests under `id` that are not written and stand alone in their frames, which
    /// the caller drops. Gives each one's frame and its id as the host wrote it.
    pub(crate) fn withdraw(&mut self, id: &Id) -> Vec<(FrameNumber, Box<RawValue>)> {
        let (withdrawn, kept): (Vec<_>, Vec<_>) = std::mem::take(&mut self.entries)
            .into_iter()
            .partition(|entry| entry.id == *id && !entry.written && !entry.in_batch);
        self.entries = kept.into();
        withdrawn.into_iter().map(|entry| (entry.frame, entry.raw_id)).collect()
    }

    /// The connection is lost: one answer frame for every frame of which a byte was written. The
    /// daemon answers nothing any more, late or not.
    pub(crate) fn lose(&mut self) -> Vec<Vec<u8>> {
        self.entries.retain(|entry| !entry.expired);
        self.answer_all(|entry| entry.written, lost)
    }

    /// The waiting requests are given up: one answer frame for every frame that was not written.
    pub(crate) fn refuse(&mut self, error: &ErrorBody) -> Vec<Vec<u8>> {
        self.answer_all(|entry| !entry.written, |_| error.clone())
    }

    /// The answers to all that is left at `now`, when no other can come any more.
    pub(crate) fn answer_rest(&mut self, now: Instant) -> Vec<Vec<u8>> {
        self.answer_all(|entry| !entry.expired, |entry| too_late(entry, now))
    }

    /// Requests in flight.
    pub(crate) fn len(&self) -> usize {
        self.live().count()
    }

    /// When the last limit runs out.
    pub(crate) fn last_due(&self) -> Option<Instant> {
        self.live().map(|entry| entry.due_at).max()
    }

    fn live(&self) -> impl Iterator<Item = &Entry> {
        self.entries.iter().filter(|entry| !entry.expired)
    }

    fn answer_all(
        &mut self,
        wanted: impl Fn(&Entry) -> bool,
        error: impl Fn(&Entry) -> ErrorBody,
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
    entries: impl IntoIterator<Item = &'a Entry>,
    error: impl Fn(&Entry) -> ErrorBody,
) -> Vec<u8> {
    let mut in_batch = false;
    let replies = entries.into_iter().map(|entry| {
        in_batch = entry.in_batch;
        error_reply(entry.raw_id.get(), &error(entry))
    });
    let replies = replies.collect::<Vec<_>>().join(",");
    let frame = if in_batch { format!("[{replies}]\n") } else { format!("{replies}\n") };
    frame.into_bytes()
}

/// A JSON-RPC error reply under an id that is JSON already.
pub(crate) fn error_reply(raw_id: &str, error: &ErrorBody) -> String {
    format!(r#"{{"jsonrpc":"2.0","id":{raw_id},"error":{}}}"#, error.to_rpc())
}

fn too_late(entry: &Entry, now: Instant) -> ErrorBody {
    let Deadline { limit_ms, .. } = entry.deadline;
    let error =
        ErrorBody::timeout("the request", Layer::Shim, limit_ms, entry.deadline.elapsed_ms(now));
    if entry.written { as_careful(error, entry) } else { error }
}

fn lost(entry: &Entry) -> ErrorBody {
    let error =
        ErrorBody::new(ErrorCode::DaemonLost, "the daemon ended before it answered this request");
    as_careful(error, entry)
}

/// What may have been carried out is not to be sent again blindly.
fn as_careful(error: ErrorBody, entry: &Entry) -> ErrorBody {
    if !entry.changes_state {
        return error;
    }
    let mut error = error.with_remediation(
        "It may have been carried out: look at `ingle ps` and `ingle models` before you send it \
         again.",
    );
    error.retryable = false;
    error
}

fn deadline(time: &CallTime, timeouts: &WorkTimeouts, noted_at: Instant) -> Deadline {
    Deadline::new(Layer::Shim, time.work_ms(timeouts), time.budget, noted_at)
}

fn changes_state(method: &str, message: &Message<'_>) -> bool {
    const METHODS: &[&str] = &[LoadModel::NAME, UnloadModel::NAME, PullModel::NAME, Shutdown::NAME];
    match method {
        "tools/call" => message.tool().is_none_or(|name| tools::tool(&name).changes_state),
        method => METHODS.contains(&method),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::{Value, json};
    use std::collections::HashMap;

    fn note(pending: &mut Pending, frame: FrameNumber, line: &str) {
        let line = Line::parse(line.as_bytes()).unwrap();
        pending.note(frame, &line, &WorkTimeouts::default(), Instant::now()).unwrap();
    }

    fn id(value: &Value) -> Id {
        Id::read(serde_json::from_str(&value.to_string()).unwrap())
    }

    fn read(frames: &[Vec<u8>]) -> Vec<Value> {
        frames.iter().map(|frame| serde_json::from_slice(frame).unwrap()).collect()
    }

    /// `{"id":9}` lacks its method: the daemon refuses it under its id, and that answer is awaited.
    #[test]
    fn what_lacks_its_method_is_awaited_and_a_reply_of_the_host_is_not() {
        let mut pending = Pending::default();
        note(&mut pending, 0, r#"[{"id":7,"method":"ping"},{"id":9}]"#);
        pending.mark_written(0);
        assert_eq!(pending.settle(&id(&json!(9))), Settled::Awaited);
        for reply in
            [r#"{"id":1,"result":null}"#, r#"{"id":1,"result":{}}"#, r#"{"id":1,"error":{}}"#]
        {
            note(&mut pending, 1, reply);
            pending.mark_written(1);
            assert_eq!(pending.settle(&id(&json!(1))), Settled::Unwanted, "{reply}");
        }
    }

    #[test]
    fn only_written_requests_are_answered_when_the_daemon_is_lost() {
        let mut pending = Pending::default();
        note(&mut pending, 0, r#"{"id":1,"method":"generate"}"#);
        note(&mut pending, 1, r#"{"id":"two","method":"models.load"}"#);
        note(&mut pending, 2, r#"{"id":3,"method":"status"}"#);
        pending.mark_written(0);
        pending.mark_written(1);
        let answers = read(&pending.lose());
        assert_eq!(answers.len(), 2);
        assert_eq!(answers[0]["id"], 1);
        assert_eq!(answers[0]["error"]["data"]["code"], "DAEMON_LOST");
        assert_eq!(answers[0]["error"]["data"]["retryable"], true);
        assert_eq!(answers[1]["id"], "two");
        assert_eq!(answers[1]["error"]["data"]["retryable"], false);
        assert_eq!(pending.len(), 1);
        assert!(pending.lose().is_empty());
    }

    #[test]
    fn a_lost_batch_is_answered_as_a_batch_of_what_was_left() {
        let mut pending = Pending::default();
        let batch = r#"[{"id":1,"method":"a"},{"method":"n"},{"id":2.5,"method":"b"},7]"#;
        note(&mut pending, 0, batch);
        pending.mark_written(0);
        assert_eq!(pending.settle(&id(&json!(1))), Settled::Awaited);
        let answers = read(&pending.lose());
        assert_eq!(answers[0].as_array().unwrap().len(), 1);
        assert_eq!(answers[0][0]["id"], 2.5);
    }

    #[test]
    fn ids_come_back_to_the_letter() {
        let mut pending = Pending::default();
        note(&mut pending, 0, r#"{"id":12345678901234567890123,"method":"a"}"#);
        pending.mark_written(0);
        let answers = pending.lose();
        let text = String::from_utf8(answers[0].clone()).unwrap();
        assert!(text.contains(r#""id":12345678901234567890123,"#) && text.ends_with('\n'));
    }

    #[test]
    fn an_id_in_use_twice_is_owed_two_answers() {
        let mut pending = Pending::default();
        note(&mut pending, 0, r#"{"id":1,"method":"a"}"#);
        note(&mut pending, 1, r#"{"id":1,"method":"b"}"#);
        pending.mark_written(0);
        pending.mark_written(1);
        assert_eq!(pending.settle(&Id::Integer(1)), Settled::Awaited);
        assert_eq!(pending.lose().len(), 1);
        assert_eq!(pending.settle(&Id::Integer(1)), Settled::Unwanted);
    }

    #[test]
    fn a_null_reply_settles_an_id_the_daemon_cannot_repeat() {
        let mut pending = Pending::default();
        note(&mut pending, 0, r#"{"id":1,"method":"a"}"#);
        note(&mut pending, 1, r#"{"id":1.5,"method":"a"}"#);
        pending.mark_written(0);
        pending.mark_written(1);
        assert_eq!(pending.settle(&Id::Other), Settled::Awaited);
        assert_eq!(read(&pending.lose())[0]["id"], 1);
    }

    #[test]
    fn only_a_request_that_is_still_here_can_be_taken_back() {
        let mut pending = Pending::default();
        note(&mut pending, 0, r#"{"id":1,"method":"a"}"#);
        note(&mut pending, 1, r#"[{"id":2,"method":"a"}]"#);
        note(&mut pending, 2, r#"{"id":3.0,"method":"a"}"#);
        pending.mark_written(0);
        assert!(pending.withdraw(&Id::Integer(1)).is_empty());
        assert!(pending.withdraw(&Id::Integer(2)).is_empty());
        let withdrawn = pending.withdraw(&Id::Integer(3));
        assert_eq!((withdrawn[0].0, withdrawn[0].1.get()), (2, "3.0"));
        assert_eq!(pending.len(), 2);
    }

    #[test]
    fn tools_that_are_not_known_to_be_harmless_are_not_retryable() {
        let mut pending = Pending::default();
        for (frame, tool) in [(0, "generate"), (1, "load_model"), (2, "from_the_future")] {
            let line = format!(
                r#"{{"id":{frame},"method":"tools/call","params":{{"name":"{tool}","arguments":{{}}}}}}"#
            );
            note(&mut pending, frame, &line);
            pending.mark_written(frame);
        }
        let retryable: Vec<_> = read(&pending.lose())
            .iter()
            .map(|answer| answer["error"]["data"]["retryable"].as_bool().unwrap())
            .collect();
        assert_eq!(retryable, [true, false, false]);
    }

    /// W of every class is 100 ms: the shim answers at 200 ms.
    fn short() -> WorkTimeouts {
        WorkTimeouts { simple_ms: 100, workflow_ms: 100, ..WorkTimeouts::default() }
    }

    #[test]
    fn a_late_answer_reaches_nobody_and_nobody_else() {
        let (mut pending, start) = (Pending::default(), Instant::now());
        let at = |ms| start + std::time::Duration::from_millis(ms);
        let note = |pending: &mut Pending, frame, line: &str| {
            pending.note(frame, &Line::parse(line.as_bytes()).unwrap(), &short(), start)
        };
        note(&mut pending, 0, r#"{"id":1,"method":"status"}"#).unwrap();
        note(&mut pending, 1, r#"{"id":2,"method":"status"}"#).unwrap();
        let batch = r#"[{"id":3,"method":"status"},{"id":4,"method":"models.pull"}]"#;
        note(&mut pending, 2, batch).unwrap();
        pending.mark_written(0);
        assert_eq!(pending.next_due(), Some(at(200)));
        assert!(pending.expire(at(199)).answers.is_empty());
        assert_eq!(pending.remaining_ms(1, at(4)), None);
        assert_eq!(pending.remaining_ms(1, at(150)), Some(50));
        let expired = pending.expire(at(200));
        let answers = read(&expired.answers);
        assert_eq!(answers.len(), 2, "a batch waits for its last request");
        assert_eq!(answers[0]["error"]["data"]["code"], "TIMEOUT");
        let details = &answers[0]["error"]["data"]["details"];
        assert_eq!((&details["layer"], &details["limit_ms"]), (&json!("shim"), &json!(200)));
        assert_eq!(expired.unsent, [1]);
        assert_eq!(expired.given_up.len(), 1);
        assert_eq!(pending.len(), 2);
        // The id is taken until the daemon has let go of it.
        let refusal = note(&mut pending, 3, r#"{"id":1,"method":"status"}"#).unwrap_err();
        assert_eq!(read(&[refusal])[0]["error"]["data"]["code"], "INVALID_REQUEST");
        assert_eq!(pending.settle(&Id::Integer(1)), Settled::Unwanted);
        note(&mut pending, 4, r#"{"id":1,"method":"status"}"#).unwrap();
        pending.mark_written(4);
        assert_eq!(pending.settle(&Id::Integer(1)), Settled::Awaited);
    }

    #[test]
    fn limits_follow_the_daemons_ladder_once_it_is_known() {
        let (mut pending, start) = (Pending::default(), Instant::now());
        let line = Line::parse(br#"{"id":1,"method":"status"}"#).unwrap();
        pending.note(0, &line, &short(), start).unwrap();
        pending.retime(&WorkTimeouts::default());
        assert_eq!(pending.next_due(), Some(start + std::time::Duration::from_secs(120)));
    }

    #[test]
    fn too_many_requests_are_refused_at_once() {
        let mut pending = Pending::default();
        for frame in 0..limits::SHIM_PENDING as u64 {
            note(&mut pending, frame, &format!(r#"{{"id":{frame},"method":"a"}}"#));
        }
        let line = Line::parse(br#"{"id":"over","method":"a"}"#).unwrap();
        let refusal =
            pending.note(9_999, &line, &WorkTimeouts::default(), Instant::now()).unwrap_err();
        let refusal: Value = serde_json::from_slice(&refusal).unwrap();
        assert_eq!(refusal["id"], "over");
        assert_eq!(refusal["error"]["data"]["code"], "OVERLOADED");
        assert_eq!(pending.len(), limits::SHIM_PENDING);
    }

    #[derive(Debug, Clone)]
    enum Step {
        Note(u8),
        Batch(Vec<u8>),
        Write,
        Reply(u8),
        Cancel(u8),
        Lose,
        Refuse,
        Expire,
    }

    fn step() -> impl Strategy<Value = Step> {
        // Few ids, so that they are often in use twice.
        let id = 0..6_u8;
        prop_oneof![
            4 => id.clone().prop_map(Step::Note),
            1 => prop::collection::vec(id.clone(), 1..4).prop_map(Step::Batch),
            4 => Just(Step::Write),
            3 => id.clone().prop_map(Step::Reply),
            1 => id.prop_map(Step::Cancel),
            1 => Just(Step::Lose),
            1 => Just(Step::Refuse),
            1 => Just(Step::Expire),
        ]
    }

    /// How many answers each id is owed, kept in the plainest way that can be right.
    #[derive(Default)]
    struct Model {
        unwritten: VecDeque<(FrameNumber, Vec<u8>)>,
        written: HashMap<u8, usize>,
        /// Answers that the daemon may still give, and nobody wants.
        late: HashMap<u8, usize>,
    }

    impl Model {
        fn is_late(&self, id: u8) -> bool {
            self.late.get(&id).is_some_and(|late| *late > 0)
        }
    }

    fn answered(frames: &[Vec<u8>]) -> HashMap<u8, usize> {
        let mut counts = HashMap::new();
        let flat = read(frames).into_iter().flat_map(|answer| match answer {
            Value::Array(answers) => answers,
            answer => vec![answer],
        });
        for answer in flat {
            let id = u8::try_from(answer["id"].as_u64().unwrap()).unwrap();
            *counts.entry(id).or_default() += 1;
        }
        counts
    }

    fn count(ids: impl IntoIterator<Item = u8>) -> HashMap<u8, usize> {
        let mut counts = HashMap::new();
        for id in ids {
            *counts.entry(id).or_default() += 1;
        }
        counts
    }

    proptest! {
        #[test]
        fn every_written_request_is_answered_exactly_once(
            steps in prop::collection::vec(step(), 0..120),
        ) {
            let mut pending = Pending::default();
            let mut model = Model::default();
            let steps = steps.into_iter().chain([Step::Lose, Step::Refuse]);
            for (number, step) in steps.enumerate() {
                let number = number as FrameNumber;
                match step {
                    Step::Note(id) if model.is_late(id) => {}
                    Step::Batch(ids) if ids.iter().any(|id| model.is_late(*id)) => {}
                    Step::Note(id) => {
                        note(&mut pending, number, &format!(r#"{{"id":{id},"method":"a"}}"#));
                        model.unwritten.push_back((number, vec![id]));
                    }
                    Step::Batch(ids) => {
                        let batch: Vec<_> =
                            ids.iter().map(|id| json!({ "id": id, "method": "a" })).collect();
                        note(&mut pending, number, &Value::from(batch).to_string());
                        model.unwritten.push_back((number, ids));
                    }
                    Step::Write => {
                        if let Some((frame, ids)) = model.unwritten.pop_front() {
                            pending.mark_written(frame);
                            for id in ids {
                                *model.written.entry(id).or_default() += 1;
                            }
                        }
                    }
                    Step::Reply(id) if model.is_late(id) => {
                        let waited = pending.settle(&Id::Integer(id.into()));
                        prop_assert_eq!(waited, Settled::Unwanted);
                        *model.late.entry(id).or_default() -= 1;
                    }
                    Step::Reply(id) => {
                        let owed = model.written.get_mut(&id).filter(|owed| **owed > 0);
                        let waited = pending.settle(&Id::Integer(id.into()));
                        prop_assert_eq!(waited == Settled::Awaited, owed.is_some());
                        if let Some(owed) = owed {
                            *owed -= 1;
                        }
                    }
                    Step::Cancel(id) => {
                        pending.forget(&Id::Integer(id.into()));
                        model.written.remove(&id);
                        for (_, ids) in &mut model.unwritten {
                            ids.retain(|other| *other != id);
                        }
                    }
                    Step::Expire => {
                        let late = Instant::now() + std::time::Duration::from_secs(100_000);
                        let expired = pending.expire(late);
                        let (mut owed, unwritten) =
                            (std::mem::take(&mut model.written), std::mem::take(&mut model.unwritten));
                        owed.retain(|_, owed| *owed > 0);
                        for (id, count) in &owed {
                            *model.late.entry(*id).or_default() += count;
                        }
                        for id in unwritten.into_iter().flat_map(|(_, ids)| ids) {
                            *owed.entry(id).or_default() += 1;
                        }
                        prop_assert_eq!(answered(&expired.answers), owed);
                        prop_assert_eq!(pending.len(), 0);
                    }
                    Step::Lose => {
                        model.late.clear();
                        let answers = answered(&pending.lose());
                        model.written.retain(|_, owed| *owed > 0);
                        prop_assert_eq!(answers, std::mem::take(&mut model.written));
                    }
                    Step::Refuse => {
                        let error = ErrorBody::new(ErrorCode::DaemonUnavailable, "gone");
                        let answers = answered(&pending.refuse(&error));
                        let waiting = std::mem::take(&mut model.unwritten);
                        prop_assert_eq!(answers, count(waiting.into_iter().flat_map(|(_, ids)| ids)));
                    }
                }
            }
            prop_assert_eq!(pending.len(), 0);
        }
    }
}
