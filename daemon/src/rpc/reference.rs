//! The reference of all RPC methods, in docs/rpc.md, from the wire types.

use std::fmt::Write as _;

use ingle_protocol::wire::Method;
use ingle_protocol::wire::embed::Embed;
use ingle_protocol::wire::generate::{Generate, GenerateEvent};
use ingle_protocol::wire::hello::Hello;
use ingle_protocol::wire::jobs::{
    CancelJob, CreateJob, DeleteJobs, GetJob, JobEvent, ListJobs, WaitJob,
};
use ingle_protocol::wire::metrics::Metrics;
use ingle_protocol::wire::models::{
    EstimateModel, ListModels, LoadModel, ProgressEvent, PullModel, UnloadModel,
};
use ingle_protocol::wire::status::{Health, Shutdown, Status};
use ingle_protocol::wire::tokens::{Detokenize, Tokenize};
use schemars::{JsonSchema, SchemaGenerator};
use serde_json::{Map, Value};

use crate::reference::assert_generated;

/// A schema, and the definitions that it refers to.
struct Document {
    schema: Value,
}

impl Document {
    fn of<T: JsonSchema>() -> Self {
        Self { schema: SchemaGenerator::default().into_root_schema_for::<T>().to_value() }
    }

    /// Follows a reference, and a wrapper that only adds a description to one.
    fn resolve<'a>(&'a self, schema: &'a Value) -> &'a Value {
        let target = schema["$ref"].as_str().and_then(|path| path.strip_prefix('#'));
        target.and_then(|path| self.schema.pointer(path)).unwrap_or(schema)
    }

    /// All alternatives of a type, itself if it has none.
    fn alternatives<'a>(&'a self, schema: &'a Value) -> Vec<&'a Value> {
        let schema = self.resolve(schema);
        match schema["oneOf"].as_array().or_else(|| schema["anyOf"].as_array()) {
            Some(all) => all.iter().flat_map(|one| self.alternatives(one)).collect(),
            None => vec![schema],
        }
    }

    /// The type of a field in words.
    fn kind(&self, schema: &Value) -> String {
        let schema = self.resolve(schema);
        if let Some(constant) = schema["const"].as_str() {
            return format!("`{constant}`");
        }
        if let Some(words) = schema["enum"].as_array() {
            let words = words.iter().filter_map(Value::as_str).map(|word| format!("`{word}`"));
            return words.collect::<Vec<_>>().join(", ");
        }
        if schema["oneOf"].is_array() || schema["anyOf"].is_array() {
            let mut kinds: Vec<String> =
                self.alternatives(schema).into_iter().map(|one| self.kind(one)).collect();
            kinds.retain(|kind| kind != "null");
            kinds.dedup();
            return kinds.join(" or ");
        }
        match &schema["type"] {
            Value::String(kind) if kind == "array" => {
                let items = self.kind(&schema["items"]);
                format!("array of {items}")
            }
            Value::String(kind) => kind.clone(),
            Value::Array(kinds) => {
                let kinds = kinds.iter().filter_map(Value::as_str).filter(|kind| *kind != "null");
                kinds.collect::<Vec<_>>().join(" or ")
            }
            _ => "any JSON".to_owned(),
        }
    }

    /// A table of the fields of an object; nothing for other types.
    fn fields(&self, out: &mut String, heading: &str) {
        let none = Map::new();
        let object = self.alternatives(&self.schema);
        let mut rows = String::new();
        for schema in object {
            let properties = schema["properties"].as_object().unwrap_or(&none);
            let required: Vec<&str> = schema["required"]
                .as_array()
                .map(|names| names.iter().filter_map(Value::as_str).collect())
                .unwrap_or_default();
            for (name, field) in properties {
                let is_required = required.contains(&name.as_str());
                let mark = if is_required { "yes" } else { "" };
                let kind = self.kind(field).replace('|', "or");
                let text = field["description"].as_str().unwrap_or_default();
                // The first paragraph, without the links of the Rust documentation.
                let text = text.split("\n\n").next().unwrap_or_default().replace('\n', " ");
                let text = text.replace('|', "or").replace("[`", "`").replace("`]", "`");
                let text = text.replace("`crate::", "`");
                let _ = writeln!(rows, "| `{name}` | {kind} | {mark} | {text} |");
            }
        }
        if !rows.is_empty() {
            let _ =
                write!(out, "\n| {heading} | type | always | meaning |\n|---|---|---|---|\n{rows}");
        }
    }
}

struct Reference {
    text: String,
    methods: usize,
}

impl Reference {
    fn method<M: Method>(&mut self, class: &str, events: Option<&Document>)
    where
        M::Params: JsonSchema,
        M::Output: JsonSchema,
    {
        self.methods += 1;
        let out = &mut self.text;
        let _ = write!(out, "### `{}`\n\nClass: {class}.", M::NAME);
        if let Some(events) = events {
            let tags = events.alternatives(&events.schema).into_iter().map(|event| {
                let tag = event["properties"]["type"]["const"].as_str();
                tag.map_or_else(|| events.kind(event), |tag| format!("`{tag}`"))
            });
            let tags: Vec<String> = tags.collect();
            let _ = write!(out, "\nStreams {}.", tags.join(", "));
        }
        out.push('\n');
        Document::of::<M::Params>().fields(out, "parameter");
        Document::of::<M::Output>().fields(out, "result");
        out.push('\n');
    }

    fn simple<M: Method>(&mut self)
    where
        M::Params: JsonSchema,
        M::Output: JsonSchema,
    {
        self.method::<M>(&format!("`{}`", M::CLASS.as_str()), None);
    }
}

fn reference() -> Reference {
    let (generate, progress, jobs) = (
        Document::of::<GenerateEvent>(),
        Document::of::<ProgressEvent>(),
        Document::of::<JobEvent>(),
    );
    let mut reference = Reference { text: String::new(), methods: 0 };
    reference.simple::<Hello>();
    reference.simple::<Health>();
    reference.simple::<Status>();
    reference.simple::<Metrics>();
    reference
        .method::<Generate>("`chat` with `messages`, otherwise `completions`", Some(&generate));
    reference.simple::<Embed>();
    reference.simple::<Tokenize>();
    reference.simple::<Detokenize>();
    reference.simple::<CreateJob>();
    reference.simple::<GetJob>();
    reference.method::<WaitJob>("`simple`", Some(&jobs));
    reference.simple::<CancelJob>();
    reference.simple::<ListJobs>();
    reference.simple::<DeleteJobs>();
    reference.simple::<ListModels>();
    reference.method::<LoadModel>("`workflow`", Some(&progress));
    reference.simple::<EstimateModel>();
    reference.simple::<UnloadModel>();
    reference.method::<PullModel>("none: a pull has 12 hours", Some(&progress));
    reference.simple::<Shutdown>();
    reference
}

#[test]
fn rpc_document_lists_every_method() {
    let reference = reference();
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../protocol/src/wire");
    let implemented: usize = std::fs::read_dir(folder)
        .unwrap()
        .map(|file| std::fs::read_to_string(file.unwrap().path()).unwrap())
        .map(|text| text.matches("impl Method for ").count())
        .sum();
    assert_eq!(reference.methods, implemented, "a method is missing from the reference");
    assert_generated("docs/rpc.md", &reference.text);
}
