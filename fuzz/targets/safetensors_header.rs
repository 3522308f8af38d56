//! Fuzzes the model folder reader: any bytes give an error or readable weights, never a panic.
//!
//! The input is a `config.json`, a zero byte, and a safetensors file. JSON has no zero bytes.

#![no_main]

use std::path::Path;

use ingle_formats::hf::{ModelFolder, Part, Storage};
use ingle_formats::safetensors::SafetensorsFile;
use libfuzzer_sys::fuzz_target;

fn read(folder: &ModelFolder, part: &Part) {
    let mut bytes = vec![0; part.info.bytes as usize];
    folder.read(part, 0, &mut bytes).expect("an accepted tensor can be read");
}

fuzz_target!(|data: &[u8]| {
    let at = data.iter().position(|&byte| byte == 0).unwrap_or(data.len());
    let (config, weights) = (&data[..at], data.get(at + 1..).unwrap_or_default());
    let _ = SafetensorsFile::from_bytes(Path::new("fuzzed.safetensors"), weights.to_vec());
    let Ok(folder) = ModelFolder::from_bytes(Path::new("fuzzed"), config, weights.to_vec()) else {
        return;
    };
    let _ = folder.context_tokens();
    assert!(folder.tensor_bytes() <= data.len() as u64, "tensors of more bytes than the file has");
    for tensor in folder.tensors() {
        assert!(tensor.elements() > 0);
        match &tensor.storage {
            Storage::Plain(part) => read(&folder, part),
            Storage::Quantized { packed, scales, biases, .. } => {
                [packed, scales, biases].map(|part| read(&folder, part));
            }
        }
    }
});
