//! Every result fits the schema that its tool shows, and the catalogue fits the protocol's table.

use ingle_protocol::error::{ErrorBody, ErrorCode};
use ingle_protocol::timeouts::{Class, Layer};
use ingle_protocol::tools::TOOLS;
use ingle_protocol::wire::jobs::{
    JobInfo, JobMetadata, JobReply, JobReplyStatus, JobStatus, JobTimeout,
};
use ingle_protocol::wire::models::{LoadedModel, ModelList};
use ingle_protocol::wire::status::JobCounts;
use rmcp::model::CallToolResult;
use serde_json::{Value, json};

use super::outputs::{self, answer};
use super::{Patience, known_by_tools, result, tool_list};

const PATIENCE: Patience = Patience::new(60_000);

/// Asserts that what a tool gives is what it said it would give.
fn assert_fits(tool: &str, given: &CallToolResult) {
    let tools = tool_list();
    let tool = tools.iter().find(|known| known.name == tool).unwrap();
    let schema = Value::Object(tool.output_schema.as_deref().unwrap().clone());
    let content = given.structured_content.as_ref().unwrap();
    let errors: Vec<_> = jsonschema::validator_for(&schema)
        .unwrap()
        .iter_errors(content)
        .map(|error| error.to_string())
        .collect();
    assert!(errors.is_empty(), "{}: {errors:?} in {content}", tool.name);
    assert!(!given.content.is_empty(), "{} gives a text too", tool.name);
}

fn reply(status: JobStatus, result: Option<Value>) -> JobReply {
    let word = if result.is_some() { JobReplyStatus::Success } else { JobReplyStatus::Pending };
    let metadata = JobMetadata {
        request_id: "1-1".to_owned(),
        timestamp: "2026-01-01T00:00:00Z".to_owned(),
        duration_ms: 3,
        api_version: "v1".to_owned(),
    };
    let job = JobInfo {
        id: "j-1".to_owned(),
        status,
        kind: "generate".to_owned(),
        class: Class::Workflow,
        model: Some("sim".to_owned()),
        timeout_s: JobTimeout::None,
        attempts: 1,
        created_at: "2026-01-01T00:00:00Z".to_owned(),
        started_at: None,
        ended_at: None,
        duration_ms: 3,
        progress: 0.25,
        message: "generating".to_owned(),
        warnings: Vec::new(),
        not_stored: None,
    };
    let partial_result = result.is_none().then(|| json!({ "text": "so f" }));
    JobReply { status: word, result, error: None, partial_result, metadata, job }
}

#[test]
fn every_tool_of_the_protocol_is_described_and_no_other() {
    let tools = tool_list();
    let names: Vec<_> = tools.iter().map(|tool| tool.name.as_ref()).collect();
    assert_eq!(names, TOOLS.iter().map(|tool| tool.name).collect::<Vec<_>>());
    for (tool, kind) in tools.iter().zip(TOOLS) {
        let hints = tool.annotations.as_ref().unwrap();
        assert_eq!(hints.read_only_hint, Some(!kind.changes_state), "{}", kind.name);
        assert_eq!(hints.open_world_hint, Some(false), "{}", kind.name);
        assert!(hints.destructive_hint.is_some() && hints.idempotent_hint.is_some());
        assert!(tool.title.is_some() && tool.description.is_some(), "{}", kind.name);
    }
}

/// Looks at every schema inside a schema.
fn walk(schema: &Value, look: &mut impl FnMut(&serde_json::Map<String, Value>)) {
    match schema {
        Value::Object(object) => {
            look(object);
            object.values().for_each(|schema| walk(schema, look));
        }
        Value::Array(items) => items.iter().for_each(|schema| walk(schema, look)),
        _ => {}
    }
}

#[test]
fn schemas_are_plain_objects_that_say_what_each_member_means() {
    for tool in tool_list() {
        let input = Value::Object((*tool.input_schema).clone());
        let output = Value::Object(tool.output_schema.as_deref().unwrap().clone());
        for schema in [&input, &output] {
            jsonschema::draft202012::meta::validate(schema).unwrap();
            assert_eq!(schema["type"], "object", "{}", tool.name);
            walk(schema, &mut |part| {
                assert!(!part.contains_key("$ref"), "{}: {part:?}", tool.name);
                assert!(!part.contains_key("format") || part["format"].is_object(), "{part:?}");
                assert_ne!(part.get("type"), Some(&json!("null")), "{part:?}");
                assert_ne!(part.get("default"), Some(&Value::Null), "{part:?}");
            });
            for (name, member) in schema["properties"].as_object().unwrap() {
                assert!(member["description"].is_string(), "{}: {name}: {member}", tool.name);
            }
        }
        assert_eq!(input["additionalProperties"], false, "{}", tool.name);
        // Some hosts take no alternatives there.
        assert!(["anyOf", "oneOf", "allOf"].iter().all(|key| input.get(key).is_none()));
    }
}

#[test]
fn texts_vectors_and_unfinished_work_fit_their_schemas() {
    let text = json!({
        "request_id": "1-1",
        "model": "sim",
        "text": "crackle",
        "reasoning": "hm",
        "finish_reason": "stop",
        "seed": u64::MAX,
        "usage": { "prompt_tokens": 3, "cached_tokens": 0, "completion_tokens": 7 },
        "timings": {},
    });
    let vectors = json!({
        "model": "minilm",
        "dimensions": 2,
        "embeddings": [[f64::from(0.1_f32), -1.0], [0.0, 1.0]],
        "usage": { "prompt_tokens": 3 },
    });
    let of = |reply, is_job| result(reply, is_job, PATIENCE).unwrap();
    let running = of(reply(JobStatus::Running, None), true);
    assert_eq!(running.structured_content.as_ref().unwrap()["partial_text"], "so f");
    for tool in ["chat", "generate", "complete_code", "job_wait", "job_get"] {
        let given = of(reply(JobStatus::Done, Some(text.clone())), tool.starts_with("job"));
        assert_fits(tool, &given);
        assert_eq!(given.content[0].as_text().unwrap().text, "crackle");
        assert_fits(tool, &running);
    }
    for tool in ["embed", "job_wait", "job_get"] {
        let given = of(reply(JobStatus::Done, Some(vectors.clone())), false);
        assert_fits(tool, &given);
        // Hosts of the first revision see the text only.
        assert!(given.content[0].as_text().unwrap().text.contains("[0.1,-1.0]"), "{given:?}");
        assert_fits(tool, &of(reply(JobStatus::Queued, None), true));
    }
}

#[test]
fn everything_else_fits_its_schema_and_so_does_every_error() {
    let list = json!({ "default": "sim", "models": [
        { "name": "sim", "format": "sim", "size_bytes": 1, "state": "on_disk", "description": "" },
    ] });
    let list: ModelList = serde_json::from_value(list).unwrap();
    assert_fits("list_models", &answer(&outputs::Models::from(list), None).unwrap());
    let loaded = json!({
        "name": "sim", "engine": "sim", "architecture": "sim", "weight_bytes": 1, "kv_bytes": 0,
        "context_tokens": 64, "active": 0, "load_ms": 1.5,
    });
    let loaded: LoadedModel = serde_json::from_value(loaded).unwrap();
    assert_fits("load_model", &answer(&outputs::Load::from(loaded), None).unwrap());
    let loading = outputs::Load::under_way("sim".to_owned(), 0.5);
    assert_fits("load_model", &answer(&loading, None).unwrap());
    let unloaded = outputs::Unloaded { model: "sim".to_owned(), was_loaded: true };
    assert_fits("unload_model", &answer(&unloaded, None).unwrap());
    let count = outputs::TokenCount { model: "sim".to_owned(), tokens: 1, characters: 2 };
    assert_fits("count_tokens", &answer(&count, None).unwrap());
    let status = json!({
        "build": "b", "pid": 1, "uptime_s": 1, "socket": "s", "connections": 1, "active": 0,
        "queued": 0, "generations": 0, "resident_bytes": 0, "models": [],
        "health": { "state": "ok", "phase": { "name": "idle" }, "heartbeat_age_ms": 1 },
    });
    let status = serde_json::from_value(status).unwrap();
    let server = outputs::Server::new(status, JobCounts::default());
    assert_fits("server_status", &answer(&server, None).unwrap());
    let job = || outputs::JobLine::from(reply(JobStatus::Cancelled, None).job);
    assert_fits("job_cancel", &answer(&job(), None).unwrap());
    let jobs = outputs::JobLines { jobs: vec![job()] };
    assert_fits("job_list", &answer(&jobs, None).unwrap());
    for error in [
        ErrorBody::new(ErrorCode::ModelNotFound, "no"),
        ErrorBody::timeout("it", Layer::Work, 1, 2).with_request_id("1-1"),
    ] {
        let failure = outputs::failure(&error);
        assert_eq!(failure.is_error, Some(true));
        let text = &failure.content[0].as_text().unwrap().text;
        assert!(text.contains(error.code.as_str()) && text.contains(&error.remediation));
        tool_list().iter().for_each(|tool| assert_fits(&tool.name, &failure));
    }
}

#[test]
fn a_failure_says_how_long_to_wait_and_what_there_is_so_far() {
    let text = |error: ErrorBody| {
        let failure = serde_json::to_value(outputs::failure(&known_by_tools(error))).unwrap();
        failure["content"][0]["text"].as_str().unwrap().to_owned()
    };
    let full = ErrorBody::overloaded("full");
    let wait = format!("Wait {} ms", full.details["retry_after_ms"]);
    assert!(text(full).contains(&wait));
    let mut late = ErrorBody::timeout("the request", Layer::Work, 10, 11);
    assert!(!text(late.clone()).contains("so far"));
    late.details["partial_result"] = json!({ "text": "once upon" });
    assert!(text(late).ends_with("so far:\nonce upon"));
}
