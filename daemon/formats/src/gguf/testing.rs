//! Test support: a writer of small GGUF files, valid or deliberately broken.

#![allow(
    missing_docs,
    clippy::expect_used,
    clippy::unwrap_used,
    clippy::panic,
    reason = "test support"
)]

use std::io::Write;

use super::{GgmlType, GgufError, GgufFile};

/// Collects metadata and tensors, then gives the file's bytes.
#[derive(Debug, Clone)]
pub struct GgufWriter {
    version: u32,
    alignment: u64,
    key_count: u64,
    metadata: Vec<u8>,
    tensor_count: u64,
    index: Vec<u8>,
    data: Vec<u8>,
}

pub fn string_bytes(text: &str) -> Vec<u8> {
    [&(text.len() as u64).to_le_bytes(), text.as_bytes()].concat()
}

impl Default for GgufWriter {
    fn default() -> Self {
        Self::new()
    }
}

impl GgufWriter {
    pub fn new() -> Self {
        Self {
            version: 3,
            alignment: 32,
            key_count: 0,
            metadata: Vec::new(),
            tensor_count: 0,
            index: Vec::new(),
            data: Vec::new(),
        }
    }

    pub fn version(mut self, version: u32) -> Self {
        self.version = version;
        self
    }

    /// A value in its encoded form: its type's number and its bytes.
    pub fn raw(mut self, key: &str, value_type: u32, value: &[u8]) -> Self {
        self.key_count += 1;
        self.metadata.extend(string_bytes(key));
        self.metadata.extend(value_type.to_le_bytes());
        self.metadata.extend(value);
        self
    }

    pub fn u32(self, key: &str, value: u32) -> Self {
        self.raw(key, 4, &value.to_le_bytes())
    }

    pub fn f32(self, key: &str, value: f32) -> Self {
        self.raw(key, 6, &value.to_le_bytes())
    }

    pub fn bool(self, key: &str, value: bool) -> Self {
        self.raw(key, 7, &[value.into()])
    }

    pub fn string(self, key: &str, value: &str) -> Self {
        self.raw(key, 8, &string_bytes(value))
    }

    pub fn strings<S: AsRef<str>>(self, key: &str, values: &[S]) -> Self {
        let items: Vec<u8> = values.iter().flat_map(|text| string_bytes(text.as_ref())).collect();
        self.array(key, 8, values.len() as u64, &items)
    }

    pub fn i32_array(self, key: &str, values: &[i32]) -> Self {
        let items: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
        self.array(key, 5, values.len() as u64, &items)
    }

    pub fn f32_array(self, key: &str, values: &[f32]) -> Self {
        let items: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
        self.array(key, 6, values.len() as u64, &items)
    }

    /// An array in its encoded form.
    pub fn array(self, key: &str, element_type: u32, count: u64, items: &[u8]) -> Self {
        let mut value = element_type.to_le_bytes().to_vec();
        value.extend(count.to_le_bytes());
        value.extend(items);
        self.raw(key, 9, &value)
    }

    /// A tensor; `shape` is outermost first. `data` need not have the right length.
    pub fn tensor(self, name: &str, shape: &[u64], kind: GgmlType, data: &[u8]) -> Self {
        let offset = self.data.len() as u64;
        self.raw_tensor(name, shape, kind.id(), offset, data)
    }

    /// A tensor of any type number at any offset; `data` is appended to the data section.
    pub fn raw_tensor(
        mut self,
        name: &str,
        shape: &[u64],
        type_id: u32,
        offset: u64,
        data: &[u8],
    ) -> Self {
        self.tensor_count += 1;
        self.index.extend(string_bytes(name));
        self.index.extend((shape.len() as u32).to_le_bytes());
        for dimension in shape.iter().rev() {
            self.index.extend(dimension.to_le_bytes());
        }
        self.index.extend(type_id.to_le_bytes());
        self.index.extend(offset.to_le_bytes());
        self.data.extend(data);
        while !(self.data.len() as u64).is_multiple_of(self.alignment) {
            self.data.push(0);
        }
        self
    }

    /// A tensor of 32-bit floats.
    pub fn f32_tensor(self, name: &str, shape: &[u64], values: &[f32]) -> Self {
        let data: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
        self.tensor(name, shape, GgmlType::F32, &data)
    }

    /// The whole file.
    pub fn bytes(&self) -> Vec<u8> {
        let mut out = b"GGUF".to_vec();
        out.extend(self.version.to_le_bytes());
        out.extend(self.tensor_count.to_le_bytes());
        out.extend(self.key_count.to_le_bytes());
        out.extend(&self.metadata);
        out.extend(&self.index);
        while !(out.len() as u64).is_multiple_of(self.alignment) {
            out.push(0);
        }
        out.extend(&self.data);
        out
    }

    /// Opens the file from a temporary place.
    pub fn open(&self) -> Result<GgufFile, GgufError> {
        open_bytes(&self.bytes())
    }
}

/// Opens `bytes` as a file. The file is unlinked at once, but stays readable while it is open.
pub fn open_bytes(bytes: &[u8]) -> Result<GgufFile, GgufError> {
    let mut file = tempfile::NamedTempFile::new().expect("a temporary file");
    file.write_all(bytes).expect("the file can be written");
    GgufFile::open(file.path())
}
