//! Tests that results fit their tools' schemas, and that the catalogue fits the protocol's table.

use crate::limits;
use ingle_protocol::error::{ErrorBody, ErrorCode};
use ingle_protocol::mcp_tools::TOOLS;
use ingle_protocol::timeouts::{Class, Layer};
use ingle_protocol::wire::embed::{EmbedResult, EmbedUsage};
use ingle_protocol::wire::generate::Timings;
use ingle_protocol::wire::jobs::{
    JobInfo, JobMetadata, JobReply, JobReplyStatus, JobResult, JobStatus, JobTimeout, PartialResult,
};
use ingle_protocol::wire::models::{LoadedModel, ModelList};
use ingle_protocol::wire::status::JobCounts;
use rmcp::model::CallToolResult;
use serde_json::{Value, json};

use super::call::ToolContext;
use super::render::{self, result as tool_result};
use super::{for_tools, outputs, tool_list, work};

/// A call of `tool` by a host of a revision with structured content.
fn tool_context(tool: &str) -> ToolContext<'_> {
    ToolContext { tool, wait_ms: 60_000, has_structure: true }
}

/// The texts of a result.
fn texts(given: &CallToolResult) -> Vec<&str> {
    given.content.iter().map(|block| block.as_text().unwrap().text.as_str()).collect()
}

/// Asserts that a result fits the output schema of its tool.
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

fn reply(status: JobStatus, result: Option<JobResult>) -> JobReply {
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
    let so_far = PartialResult { text: "so f".to_owned(), alternatives: Vec::new() };
    let partial_result = result.is_none().then_some(so_far);
    JobReply { status: word, result, error: None, partial_result, metadata, job }
}

/// The result of a `generate` with this choice.
fn generated(choice: Value) -> JobResult {
    let result = json!({
        "request_id": "1-1", "model": "sim", "choices": [choice], "timings": Timings::default(),
        "usage": { "prompt_tokens": 3, "cached_tokens": 0, "completion_tokens": 16 },
    });
    JobResult::Generate(serde_json::from_value(result).unwrap())
}

fn embedded(embeddings: Vec<Vec<f32>>) -> JobResult {
    JobResult::Embed(EmbedResult {
        request_id: "1-1".to_owned(),
        model: "minilm".to_owned(),
        dimensions: embeddings[0].len(),
        embeddings,
        truncated: Vec::new(),
        usage: EmbedUsage { prompt_tokens: 3 },
    })
}

#[test]
fn catalogue_matches_the_protocol_table() {
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

/// Calls `look` with every schema inside a schema.
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
fn schemas_are_plain_and_described() {
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
            for (name, field) in schema["properties"].as_object().unwrap() {
                assert!(field["description"].is_string(), "{}: {name}: {field}", tool.name);
            }
        }
        assert_eq!(input["additionalProperties"], false, "{}", tool.name);
        // Some hosts take no alternatives there.
        assert!(["anyOf", "oneOf", "allOf"].iter().all(|key| input.get(key).is_none()));
    }
}

#[test]
fn work_results_fit_their_schemas() {
    let text = generated(json!({
        "text": "crackle", "reasoning": "hm", "finish_reason": "stop", "seed": u64::MAX,
    }));
    let vectors = embedded(vec![vec![0.1, -1.0], vec![0.0, 1.0]]);
    let of = |tool, reply: JobReply| work::result(tool_context(tool), &reply).unwrap();
    for tool in ["chat", "generate", "complete_code", "job_wait", "job_get"] {
        let given = of(tool, reply(JobStatus::Done, Some(text.clone())));
        assert_fits(tool, &given);
        assert_eq!(texts(&given), ["crackle"]);
        let is_job = given.structured_content.as_ref().unwrap().get("job_id").is_some();
        assert_eq!(is_job, tool.starts_with("job"), "{tool}");
        let running = of(tool, reply(JobStatus::Running, None));
        assert_fits(tool, &running);
        assert_eq!(running.structured_content.as_ref().unwrap()["partial_text"], "so f");
        // With job_wait, a model would read it again with every call.
        assert_eq!(texts(&running)[0].ends_with("so far:\nso f"), tool == "job_get", "{tool}");
    }
    for tool in ["embed", "job_wait", "job_get"] {
        let given = of(tool, reply(JobStatus::Done, Some(vectors.clone())));
        assert_fits(tool, &given);
        let words = "2 vectors of 2 numbers from `minilm`; they are in the structured content.";
        assert_eq!(texts(&given), [words], "a model reads no vectors");
        assert_fits(tool, &of(tool, reply(JobStatus::Queued, None)));
    }
}

#[test]
fn vectors_as_text_are_bounded() {
    let old = ToolContext { has_structure: false, ..tool_context("embed") };
    let of = |texts: usize| {
        let result = embedded(vec![vec![0.1, -1.0]; texts]);
        work::result(old, &reply(JobStatus::Done, Some(result))).unwrap()
    };
    let few = of(1);
    assert_fits("embed", &few);
    assert!(texts(&few)[0].starts_with("1 vector of 2 numbers"), "{few:?}");
    assert!(texts(&few)[1].contains("[0.1,-1.0]"), "{few:?}");
    let many = of(100_000);
    assert_eq!(texts(&many).len(), 1);
    assert!(texts(&many)[0].contains("fewer texts"), "{:?}", texts(&many));
    assert!(many.structured_content.is_some());
}

/// A result as large as a job may have is still one frame.
#[test]
fn largest_embed_result_fits_a_frame() {
    let result = embedded(vec![vec![-0.123_456_79; 384]; 1_650]);
    let bytes = serde_json::to_vec(&result).unwrap().len();
    assert!((limits::JOB_RESULT_BYTES / 10 * 9..limits::JOB_RESULT_BYTES).contains(&bytes));
    for has_structure in [true, false] {
        let context = ToolContext { has_structure, ..tool_context("job_get") };
        let given = work::result(context, &reply(JobStatus::Done, Some(result.clone()))).unwrap();
        let bytes = serde_json::to_vec(&given).unwrap().len();
        assert!(bytes + 1_024 < limits::FRAME_BYTES, "{bytes}");
    }
}

#[test]
fn incomplete_text_has_a_note() {
    let notes = |reason: &str, text: &str, reasoning: Option<&str>| {
        let result = generated(json!({
            "text": text, "reasoning": reasoning, "finish_reason": reason, "seed": 1,
        }));
        let given =
            work::result(tool_context("chat"), &reply(JobStatus::Done, Some(result))).unwrap();
        assert_fits("chat", &given);
        assert_eq!(texts(&given)[0], text);
        texts(&given)[1..].join("|")
    };
    assert_eq!(notes("stop", "all", None), "");
    assert_eq!(notes("tool_calls", "", None), "");
    let cut = notes("length", "so f", None);
    assert!(cut.starts_with("[Cut off after 16 tokens.") && cut.contains("`max_tokens`"), "{cut}");
    assert!(notes("length", "", Some("hm")).contains("still thinking"));
    assert!(notes("soft_timeout", "so far.", None).starts_with("[Ended early after 16 tokens"));
}

#[test]
fn job_wait_time_is_rounded_up_and_bounded() {
    let seconds = |wait_ms| {
        let given = work::result(
            ToolContext { wait_ms, ..tool_context("chat") },
            &reply(JobStatus::Running, None),
        );
        texts(&given.unwrap())[0].to_owned()
    };
    assert!(seconds(300_000).contains("it waits up to 300 seconds"));
    assert!(seconds(59_001).contains("it waits up to 60 seconds"));
}

#[test]
fn cancelled_work_names_the_tool_to_call_again() {
    let next = |tool, kind: &str, code| {
        let mut reply = reply(JobStatus::Cancelled, None);
        reply.status = JobReplyStatus::Error;
        reply.job.kind = kind.to_owned();
        let error = ErrorBody::new(code, "it ended").with_remediation("Create the job again.");
        reply.error = Some(error.with_details(json!({ "partial_result": { "text": "so f" } })));
        let error = work::result(tool_context(tool), &reply).unwrap_err();
        texts(&render::failure(&for_tools(error)))[0].to_owned()
    };
    for code in [ErrorCode::Cancelled, ErrorCode::Interrupted] {
        assert!(next("job_get", "embed", code).contains("Call `embed` again"));
        let text = next("job_wait", "generate", code);
        assert!(text.contains("(`chat`, `generate` or `complete_code`) again"), "{text}");
        assert!(text.ends_with("so far:\nso f") && !text.contains("Create"), "{text}");
        assert!(next("chat", "generate", code).contains("Call `chat` again"));
    }
    assert!(next("chat", "generate", ErrorCode::Internal).contains("Create the job again"));
}

#[test]
fn other_results_and_errors_fit_their_schemas() {
    let list = json!({ "default": "sim", "models": [
        { "name": "sim", "format": "sim", "size_bytes": 1, "state": "on_disk", "description": "" },
    ] });
    let list: ModelList = serde_json::from_value(list).unwrap();
    assert_fits("list_models", &tool_result(&outputs::Models::from(list), None).unwrap());
    let loaded = json!({
        "name": "sim", "engine": "sim", "architecture": "sim", "weight_bytes": 1, "kv_bytes": 0,
        "context_tokens": 64, "active": 0, "load_ms": 1.5,
    });
    let loaded: LoadedModel = serde_json::from_value(loaded).unwrap();
    assert_fits("load_model", &tool_result(&outputs::ResidentModel::from(loaded), None).unwrap());
    let loading = outputs::LoadingModel::new("sim".to_owned(), 0.5);
    assert_fits("load_model", &tool_result(&loading, None).unwrap());
    let unloaded = outputs::UnloadedModel { model: "sim".to_owned(), was_loaded: true };
    assert_fits("unload_model", &tool_result(&unloaded, None).unwrap());
    let count = outputs::TokenCount { model: "sim".to_owned(), tokens: 1, characters: 2 };
    assert_fits("count_tokens", &tool_result(&count, None).unwrap());
    let status = json!({
        "build": "b", "pid": 1, "uptime_s": 1, "socket": "s", "connections": 1, "active": 0,
        "queued": 0, "generations": 0, "resident_bytes": 0, "models": [],
        "health": { "state": "ok", "phase": { "name": "idle" }, "heartbeat_age_ms": 1 },
    });
    let status = serde_json::from_value(status).unwrap();
    let server = outputs::ServerStatus::new(status, JobCounts::default());
    assert_fits("server_status", &tool_result(&server, None).unwrap());
    let job = || outputs::JobSummary::from(reply(JobStatus::Cancelled, None).job);
    assert_fits("job_cancel", &tool_result(&job(), None).unwrap());
    let jobs = outputs::JobSummaries { jobs: vec![job()] };
    assert_fits("job_list", &tool_result(&jobs, None).unwrap());
    for error in [
        ErrorBody::new(ErrorCode::ModelNotFound, "no"),
        ErrorBody::timeout("it", Layer::Work, 1, 2).with_request_id("1-1"),
    ] {
        let failure = render::failure(&error);
        assert_eq!(failure.is_error, Some(true));
        let text = &failure.content[0].as_text().unwrap().text;
        assert!(text.contains(error.code.as_str()) && text.contains(error.remediation()));
        tool_list().iter().for_each(|tool| assert_fits(&tool.name, &failure));
    }
}

#[test]
fn failure_has_wait_time_and_partial_text() {
    let text = |error: ErrorBody| {
        let failure = serde_json::to_value(render::failure(&for_tools(error))).unwrap();
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
