//! Options for the form that an answer must have.
//!
//! Owns their names, and the reading of a schema's file. Whether a schema can be enforced is the
//! daemon's to say.

use std::fs::File;
use std::io::Read;

use clap::Args;
use ingle_protocol::wire::generate::OutputFormat;
use serde_json::Value;

/// The form of an answer.
#[derive(Debug, Clone, Default, Args)]
pub(crate) struct FormatOptions {
    /// Have the text be JSON, of any kind: an object
    #[arg(long, value_name = "json", value_parser = ["json"], conflicts_with = "schema")]
    format: Option<String>,
    /// Have the text be JSON that is valid against the JSON schema in this file
    #[arg(long, value_name = "FILE", value_parser = schema)]
    schema: Option<Value>,
}

impl FormatOptions {
    /// What the daemon is told.
    pub(crate) fn wanted(&self) -> Option<OutputFormat> {
        match (&self.schema, &self.format) {
            (Some(schema), _) => Some(OutputFormat::JsonSchema { schema: schema.clone() }),
            (None, Some(_)) => Some(OutputFormat::JsonObject),
            (None, None) => None,
        }
    }
}

fn schema(path: &str) -> Result<Value, String> {
    let limit = ingle_client::limits::SETTINGS_FILE_BYTES;
    let mut text = String::new();
    let read = File::open(path).and_then(|file| file.take(limit).read_to_string(&mut text));
    read.map_err(|error| format!("it cannot be read: {error}"))?;
    if text.len() as u64 == limit {
        return Err(format!("it is over {limit} bytes"));
    }
    serde_json::from_str(&text).map_err(|error| format!("it is not JSON: {error}"))
}
