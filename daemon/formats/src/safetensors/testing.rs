//! Test support: a writer of small safetensors files, valid or deliberately broken.

#![allow(
    missing_docs,
    clippy::expect_used,
    clippy::unwrap_used,
    clippy::panic,
    reason = "test support"
)]

use std::fmt::Write as _;

/// Collects entries and data, then gives the file's bytes.
#[derive(Debug, Clone, Default)]
pub struct SafetensorsWriter {
    entries: Vec<String>,
    data: Vec<u8>,
}

impl SafetensorsWriter {
    pub fn new() -> Self {
        Self::default()
    }

    /// An entry as JSON, without data.
    pub fn raw(mut self, entry: &str) -> Self {
        self.entries.push(entry.to_owned());
        self
    }

    /// A tensor whose data follows the data of the one before. `data` may have a wrong length.
    pub fn tensor(mut self, name: &str, dtype: &str, shape: &[usize], data: &[u8]) -> Self {
        let begin = self.data.len();
        self.data.extend(data);
        let mut entry = String::new();
        write!(
            entry,
            r#""{name}":{{"dtype":"{dtype}","shape":{shape:?},"data_offsets":[{begin},{}]}}"#,
            self.data.len()
        )
        .expect("a string takes all text");
        self.raw(&entry)
    }

    /// A tensor of 32-bit floats.
    pub fn f32_tensor(self, name: &str, shape: &[usize], values: &[f32]) -> Self {
        let data: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
        self.tensor(name, "F32", shape, &data)
    }

    /// The whole file.
    pub fn bytes(&self) -> Vec<u8> {
        let header = format!("{{{}}}", self.entries.join(","));
        [&(header.len() as u64).to_le_bytes(), header.as_bytes(), &self.data].concat()
    }
}
