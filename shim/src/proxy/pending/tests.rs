//! Replies to pending requests, in every order of events.

use super::*;
use proptest::prelude::*;
use serde_json::{Value, json};
use std::collections::HashMap;

fn note(pending: &mut Pending, frame: FrameNumber, line: &str) {
    let line = Line::parse(line.as_bytes()).unwrap();
    pending.note(frame, &line, &WorkTimeouts::default(), Instant::now()).unwrap();
}

fn id(value: &Value) -> RequestId {
    RequestId::read(serde_json::from_str(&value.to_string()).unwrap())
}

fn read(frames: &[Vec<u8>]) -> Vec<Value> {
    frames.iter().map(|frame| serde_json::from_slice(frame).unwrap()).collect()
}

/// `{"id":9}` lacks its method: the daemon refuses it under its id, and that answer is awaited.
#[test]
fn message_without_method_is_awaited() {
    let mut pending = Pending::default();
    note(&mut pending, 0, r#"[{"id":7,"method":"ping"},{"id":9}]"#);
    pending.mark_written(0);
    assert_eq!(pending.settle(&id(&json!(9))), ReplyStatus::Awaited);
    for reply in [r#"{"id":1,"result":null}"#, r#"{"id":1,"result":{}}"#, r#"{"id":1,"error":{}}"#]
    {
        note(&mut pending, 1, reply);
        pending.mark_written(1);
        assert_eq!(pending.settle(&id(&json!(1))), ReplyStatus::Unwanted, "{reply}");
    }
}

#[test]
fn only_written_requests_are_answered_on_loss() {
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
fn lost_batch_is_answered_as_a_batch() {
    let mut pending = Pending::default();
    let batch = r#"[{"id":1,"method":"a"},{"method":"n"},{"id":2.5,"method":"b"},7]"#;
    note(&mut pending, 0, batch);
    pending.mark_written(0);
    assert_eq!(pending.settle(&id(&json!(1))), ReplyStatus::Awaited);
    let answers = read(&pending.lose());
    assert_eq!(answers[0].as_array().unwrap().len(), 1);
    assert_eq!(answers[0][0]["id"], 2.5);
}

#[test]
fn ids_are_repeated_to_the_letter() {
    let mut pending = Pending::default();
    note(&mut pending, 0, r#"{"id":12345678901234567890123,"method":"a"}"#);
    pending.mark_written(0);
    let answers = pending.lose();
    let text = String::from_utf8(answers[0].clone()).unwrap();
    assert!(text.contains(r#""id":12345678901234567890123,"#) && text.ends_with('\n'));
}

#[test]
fn duplicate_id_gets_two_replies() {
    let mut pending = Pending::default();
    note(&mut pending, 0, r#"{"id":1,"method":"a"}"#);
    note(&mut pending, 1, r#"{"id":1,"method":"b"}"#);
    pending.mark_written(0);
    pending.mark_written(1);
    assert_eq!(pending.settle(&RequestId::from(1)), ReplyStatus::Awaited);
    assert_eq!(pending.lose().len(), 1);
    assert_eq!(pending.settle(&RequestId::from(1)), ReplyStatus::Unwanted);
}

#[test]
fn null_reply_settles_an_unrepeatable_id() {
    let mut pending = Pending::default();
    note(&mut pending, 0, r#"{"id":1,"method":"a"}"#);
    note(&mut pending, 1, r#"{"id":1.5,"method":"a"}"#);
    pending.mark_written(0);
    pending.mark_written(1);
    assert_eq!(pending.settle(&RequestId::Null), ReplyStatus::Awaited);
    assert_eq!(read(&pending.lose())[0]["id"], 1);
}

#[test]
fn only_unwritten_requests_are_withdrawn() {
    let mut pending = Pending::default();
    note(&mut pending, 0, r#"{"id":1,"method":"a"}"#);
    note(&mut pending, 1, r#"[{"id":2,"method":"a"}]"#);
    note(&mut pending, 2, r#"{"id":3.0,"method":"a"}"#);
    pending.mark_written(0);
    assert!(pending.withdraw(&RequestId::from(1)).is_empty());
    assert!(pending.withdraw(&RequestId::from(2)).is_empty());
    let withdrawn = pending.withdraw(&RequestId::from(3));
    assert_eq!((withdrawn[0].0, withdrawn[0].1.get()), (2, "3.0"));
    assert_eq!(pending.len(), 2);
}

#[test]
fn state_changing_tools_are_not_retryable() {
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
fn late_reply_is_dropped() {
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
    assert_eq!(pending.settle(&RequestId::from(1)), ReplyStatus::Unwanted);
    note(&mut pending, 4, r#"{"id":1,"method":"status"}"#).unwrap();
    pending.mark_written(4);
    assert_eq!(pending.settle(&RequestId::from(1)), ReplyStatus::Awaited);
}

#[test]
fn limits_follow_the_daemons_ladder() {
    let (mut pending, start) = (Pending::default(), Instant::now());
    let line = Line::parse(br#"{"id":1,"method":"status"}"#).unwrap();
    pending.note(0, &line, &short(), start).unwrap();
    pending.retime(&WorkTimeouts::default());
    assert_eq!(pending.next_due(), Some(start + std::time::Duration::from_secs(120)));
}

#[test]
fn too_many_requests_are_refused() {
    let mut pending = Pending::default();
    for frame in 0..crate::limits::SHIM_PENDING as u64 {
        note(&mut pending, frame, &format!(r#"{{"id":{frame},"method":"a"}}"#));
    }
    let line = Line::parse(br#"{"id":"over","method":"a"}"#).unwrap();
    let refusal = pending.note(9_999, &line, &WorkTimeouts::default(), Instant::now()).unwrap_err();
    let refusal: Value = serde_json::from_slice(&refusal).unwrap();
    assert_eq!(refusal["id"], "over");
    assert_eq!(refusal["error"]["data"]["code"], "OVERLOADED");
    assert_eq!(pending.len(), crate::limits::SHIM_PENDING);
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

/// A model of the number of replies due to each id, as simple as possible.
#[derive(Default)]
struct Model {
    unwritten: VecDeque<(FrameNumber, Vec<u8>)>,
    written: HashMap<u8, usize>,
    /// Late replies that the daemon may still send.
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
                    let waited = pending.settle(&RequestId::Integer(id.into()));
                    prop_assert_eq!(waited, ReplyStatus::Unwanted);
                    *model.late.entry(id).or_default() -= 1;
                }
                Step::Reply(id) => {
                    let owed = model.written.get_mut(&id).filter(|owed| **owed > 0);
                    let waited = pending.settle(&RequestId::Integer(id.into()));
                    prop_assert_eq!(waited == ReplyStatus::Awaited, owed.is_some());
                    if let Some(owed) = owed {
                        *owed -= 1;
                    }
                }
                Step::Cancel(id) => {
                    pending.forget(&RequestId::Integer(id.into()));
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
