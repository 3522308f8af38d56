//! Ids in flight: what the host still waits for.
//!
//! Owns who is owed an answer, and writes those answers when the daemon cannot: a pure data
//! structure that does no I/O and reads no clock. Must not know how frames travel.
//!
//! A frame is noted when it is taken from the host and marked when its first byte is written.
//! When a connection is lost, marked requests are answered ([`Pending::lose`]), because nobody can
//! tell whether they were carried out; the others are still the pump's to send again, or to give up
//! ([`Pending::refuse`]).

use std::collections::VecDeque;
use std::time::Instant;

use ingle_protocol::error::{ErrorBody, ErrorCode};
use ingle_protocol::limits;
use ingle_protocol::wire::Method;
use ingle_protocol::wire::jobs::{CancelJob, CreateJob, DeleteJobs};
use ingle_protocol::wire::models::{LoadModel, PullModel, UnloadModel};
use ingle_protocol::wire::status::Shutdown;
use serde_json::value::RawValue;

use crate::envelope::{Id, Line, Message};

/// A frame's place in the order in which the host sent them.
pub(crate) type FrameNumber = u64;

/// Tools that change nothing, so that calling them again does no harm. A tool that this build does
/// not know is taken to change something.
const HARMLESS_TOOLS: &[&str] = &["chat", "generate", "list_models"];

#[derive(Debug)]
struct Entry {
    id: Id,
    /// The id as the host wrote it: answers repeat it to the letter.
    raw_id: Box<RawValue>,
    frame: FrameNumber,
    in_batch: bool,
    written: bool,
    changes_state: bool,
    noted_at: Instant,
}

/// The requests in flight, oldest first.
#[derive(Debug, Default)]
pub(crate) struct Pending {
    entries: VecDeque<Entry>,
}

impl Pending {
    /// Notes every request of a frame at `now`.
    ///
    /// # Errors
    /// The answer to send when there is no room for them.
    pub(crate) fn note(
        &mut self,
        frame: FrameNumber,
        line: &Line<'_>,
        now: Instant,
    ) -> Result<(), Vec<u8>> {
        let in_batch = matches!(line, Line::Batch(_));
        let before = self.entries.len();
        self.entries.extend(line.messages().iter().filter_map(|message| {
            let (method, id) = message.as_request()?;
            Some(Entry {
                id: Id::read(id),
                raw_id: id.to_owned(),
                frame,
                in_batch,
                written: false,
                changes_state: changes_state(method, message),
                noted_at: now,
            })
        }));
        if self.entries.len() <= limits::SHIM_PENDING {
            return Ok(());
        }
        let refused: Vec<Entry> = self.entries.drain(before..).collect();
        let message = format!("{before} requests are in flight on this connection");
        let error = ErrorBody::overloaded(message);
        Err(answer(&refused, |_| error.clone()))
    }

    /// The first byte of a frame is on its way.
    pub(crate) fn mark_written(&mut self, frame: FrameNumber) {
        for entry in self.entries.iter_mut().filter(|entry| entry.frame == frame) {
            entry.written = true;
        }
    }

    /// A reply to `id` has come. Where an id is in use twice, the older request is settled. A reply
    /// under null settles the oldest request whose id the daemon may not have been able to repeat.
    /// Says whether anybody waited for it.
    pub(crate) fn settle(&mut self, id: &Id) -> bool {
        let place = self.entries.iter().position(|entry| {
            entry.written
                && (entry.id == *id || (*id == Id::Other && entry.id.may_come_back_as_null()))
        });
        place.and_then(|place| self.entries.remove(place)).is_some()
    }

    /// The host no longer wants an answer to `id` (MCP: a cancelled request gets none).
    pub(crate) fn forget(&mut self, id: &Id) {
        self.entries.retain(|entry| entry.id != *id);
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

    /// The connection is lost: one answer frame for every frame of which a byte was written.
    pub(crate) fn lose(&mut self) -> Vec<Vec<u8>> {
        self.answer_all(|entry| entry.written, lost)
    }

    /// The waiting requests are given up: one answer frame for every frame that was not written.
    pub(crate) fn refuse(&mut self, error: &ErrorBody) -> Vec<Vec<u8>> {
        self.answer_all(|entry| !entry.written, |_| error.clone())
    }

    /// The answers to all that is left, when no other can come any more.
    pub(crate) fn answer_rest(&mut self, error: &ErrorBody) -> Vec<Vec<u8>> {
        self.answer_all(|_| true, |_| error.clone())
    }

    /// Requests in flight.
    pub(crate) fn len(&self) -> usize {
        self.entries.len()
    }

    /// When the youngest request in flight was noted: the last one whose limit can run out.
    pub(crate) fn youngest_noted_at(&self) -> Option<Instant> {
        self.entries.iter().map(|entry| entry.noted_at).max()
    }

    fn answer_all(
        &mut self,
        wanted: impl Fn(&Entry) -> bool,
        error: impl Fn(&Entry) -> ErrorBody,
    ) -> Vec<Vec<u8>> {
        let (answered, kept): (Vec<_>, Vec<_>) =
            std::mem::take(&mut self.entries).into_iter().partition(wanted);
        self.entries = kept.into();
        answered.chunk_by(|a, b| a.frame == b.frame).map(|frame| answer(frame, &error)).collect()
    }
}

/// The reply frame, newline included, to requests of one frame.
fn answer(entries: &[Entry], error: impl Fn(&Entry) -> ErrorBody) -> Vec<u8> {
    let replies = entries.iter().map(|entry| error_reply(entry.raw_id.get(), &error(entry)));
    let replies = replies.collect::<Vec<_>>().join(",");
    let in_batch = entries.first().is_some_and(|entry| entry.in_batch);
    let frame = if in_batch { format!("[{replies}]\n") } else { format!("{replies}\n") };
    frame.into_bytes()
}

/// A JSON-RPC error reply under an id that is JSON already.
pub(crate) fn error_reply(raw_id: &str, error: &ErrorBody) -> String {
    format!(r#"{{"jsonrpc":"2.0","id":{raw_id},"error":{}}}"#, error.to_rpc())
}

fn lost(entry: &Entry) -> ErrorBody {
    let error =
        ErrorBody::new(ErrorCode::DaemonLost, "the daemon ended before it answered this request");
    if !entry.changes_state {
        return error;
    }
    let mut error = error.with_remediation(
        "It may have been carried out: look at `ingle ps`, `ingle models` and `ingle jobs list` \
         before you send it again.",
    );
    error.retryable = false;
    error
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
        "tools/call" => !message.tool().is_some_and(|tool| HARMLESS_TOOLS.contains(&&*tool)),
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
        pending.note(frame, &Line::parse(line.as_bytes()).unwrap(), Instant::now()).unwrap();
    }

    fn id(value: &Value) -> Id {
        Id::read(serde_json::from_str(&value.to_string()).unwrap())
    }

    fn read(frames: &[Vec<u8>]) -> Vec<Value> {
        frames.iter().map(|frame| serde_json::from_slice(frame).unwrap()).collect()
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
        assert!(pending.settle(&id(&json!(1))));
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
        assert!(pending.settle(&Id::Integer(1)));
        assert_eq!(pending.lose().len(), 1);
        assert!(!pending.settle(&Id::Integer(1)));
    }

    #[test]
    fn a_null_reply_settles_an_id_the_daemon_cannot_repeat() {
        let mut pending = Pending::default();
        note(&mut pending, 0, r#"{"id":1,"method":"a"}"#);
        note(&mut pending, 1, r#"{"id":1.5,"method":"a"}"#);
        pending.mark_written(0);
        pending.mark_written(1);
        assert!(pending.settle(&Id::Other));
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

    #[test]
    fn too_many_requests_are_refused_at_once() {
        let mut pending = Pending::default();
        for frame in 0..limits::SHIM_PENDING as u64 {
            note(&mut pending, frame, &format!(r#"{{"id":{frame},"method":"a"}}"#));
        }
        let line = Line::parse(br#"{"id":"over","method":"a"}"#).unwrap();
        let refusal = pending.note(9_999, &line, Instant::now()).unwrap_err();
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
        ]
    }

    /// How many answers each id is owed, kept in the plainest way that can be right.
    #[derive(Default)]
    struct Model {
        unwritten: VecDeque<(FrameNumber, Vec<u8>)>,
        written: HashMap<u8, usize>,
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
                    Step::Reply(id) => {
                        let owed = model.written.get_mut(&id).filter(|owed| **owed > 0);
                        let waited = pending.settle(&Id::Integer(id.into()));
                        prop_assert_eq!(waited, owed.is_some());
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
                    Step::Lose => {
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
