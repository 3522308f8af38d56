//! Options of the response format.
//!
//! Owns their names, and reads the file of a schema. The daemon decides whether a schema can be
//! enforced.

use std::fs::File;
use std::io::Read;

use clap::Args;
use ingle_protocol::wire::generate::OutputFormat;
use serde_json::Value;

/// The response format.
#[derive(Debug, Clone, Default, Args)]
pub(crate) struct FormatOptions {
    /// Constrain the output to a JSON object
    #[arg(long, value_name = "json", value_parser = ["json"], conflicts_with = "schema")]
    format: Option<String>,
    /// Constrain the output to the JSON schema in this file
    #[arg(long, value_name = "FILE", value_parser = schema)]
    schema: Option<Value>,
}

impl FormatOptions {
    /// The response format as a parameter.
    pub(crate) fn response_format(&self) -> Option<OutputFormat> {
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
