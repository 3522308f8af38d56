//! Fuzzes the GGUF reader: any bytes give an error or readable tensors, never a panic.

#![no_main]

use std::path::Path;

use ingle_formats::gguf::GgufFile;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let Ok(file) = GgufFile::from_bytes(Path::new("fuzzed.gguf"), data.to_vec()) else { return };
    for (key, _) in file.metadata().iter() {
        // A getter of the wrong type must return an error.
        let _ = file.metadata().u32(key);
        let _ = file.metadata().strings(key);
        let _ = file.metadata().i32_array(key);
    }
    assert!(file.tensor_bytes() <= data.len() as u64, "tensors of more bytes than the file has");
    for tensor in file.tensors() {
        assert!(tensor.elements() > 0);
        let mut bytes = vec![0; tensor.bytes as usize];
        file.read_tensor(tensor, 0, &mut bytes).expect("an accepted tensor can be read");
    }
});
