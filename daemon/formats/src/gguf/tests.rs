//! Tests of the reader on valid and hostile files.

use std::io::Write;

use super::testing::{GgufWriter, open_bytes};
use super::*;

fn small() -> GgufWriter {
    GgufWriter::new()
        .string("general.architecture", "llama")
        .u32("llama.block_count", 2)
        .f32("llama.rope.freq_base", 10_000.0)
        .bool("tokenizer.ggml.add_bos_token", true)
        .strings("tokenizer.ggml.tokens", &["a", "bc", ""])
        .i32_array("tokenizer.ggml.token_type", &[1, 3, -1])
        .f32_tensor("norm.weight", &[2], &[1.0, 2.0])
        .tensor("blk.0.w", &[3, 32], GgmlType::Q8_0, &[7; 3 * 34])
}

fn problem(writer: &GgufWriter) -> String {
    writer.open().expect_err("the file is broken").kind.to_string()
}

#[test]
fn valid_file_gives_metadata_and_tensors() {
    for version in [2, 3] {
        let file = small().version(version).open().unwrap();
        assert_eq!(file.version(), version);
        let metadata = file.metadata();
        assert_eq!(metadata.string("general.architecture").unwrap(), "llama");
        assert_eq!(metadata.u32("llama.block_count").unwrap(), 2);
        assert_eq!(metadata.f32("llama.rope.freq_base").unwrap(), 10_000.0);
        assert!(metadata.bool("tokenizer.ggml.add_bos_token").unwrap());
        assert_eq!(metadata.strings("tokenizer.ggml.tokens").unwrap(), ["a", "bc", ""]);
        assert_eq!(metadata.i32_array("tokenizer.ggml.token_type").unwrap(), [1, 3, -1]);
        assert_eq!(metadata.u32_opt("absent").unwrap(), None);
        assert_eq!(metadata.iter().count(), 6);

        assert_eq!(file.tensors().len(), 2);
        let tensor = file.tensor("blk.0.w").unwrap();
        assert_eq!((tensor.shape.as_slice(), tensor.bytes), ([3, 32].as_slice(), 102));
        assert_eq!(file.tensor_bytes(), 110);
        let mut bytes = [0; 4];
        file.read_tensor(file.tensor("norm.weight").unwrap(), 4, &mut bytes).unwrap();
        assert_eq!(f32::from_le_bytes(bytes), 2.0);
        let past = file.read_tensor(tensor, 100, &mut bytes).unwrap_err();
        assert!(matches!(past.kind, GgufErrorKind::Truncated { .. }), "{past}");
    }
}

#[test]
fn getters_name_key_found_and_expected() {
    let file = small().open().unwrap();
    let message = file.metadata().u32("general.architecture").unwrap_err().to_string();
    assert!(message.starts_with(&file.path().display().to_string()), "{message}");
    assert!(
        message.ends_with(
            "metadata key `general.architecture` is a string, expected an unsigned 32-bit integer"
        ),
        "{message}"
    );
    let message = file.metadata().string("nope").unwrap_err().to_string();
    assert!(message.ends_with("metadata key `nope` is missing, expected a string"), "{message}");
    let message = file.metadata().u32_array("tokenizer.ggml.token_type").unwrap_err().to_string();
    assert!(message.contains("an array of integers"), "{message}");
}

#[test]
fn truncated_tensor_error_names_its_range() {
    let bytes = small().bytes();
    let error = open_bytes(&bytes[..bytes.len() - 27]).unwrap_err().kind.to_string();
    let end = bytes.len() - 26;
    let start = end - 102;
    let cut = bytes.len() - 27;
    assert_eq!(
        error,
        format!(
            "truncated: tensor `blk.0.w` needs bytes {start}..{end} but the file ends at {cut}"
        )
    );
}

#[test]
fn wrong_magic_and_version_are_refused() {
    let mut bytes = small().bytes();
    bytes[0] = b'X';
    assert!(open_bytes(&bytes).unwrap_err().kind.to_string().starts_with("not a GGUF file"));
    for version in [0, 1, 4, 3_u32.swap_bytes()] {
        let message = problem(&small().version(version));
        assert!(message.starts_with(&format!("GGUF version {version} ")), "{message}");
    }
    assert!(GgufFile::open(Path::new("/nonexistent/x.gguf")).is_err());
    assert!(GgufFile::open(Path::new("/")).is_err());
}

#[test]
fn duplicates_and_overlaps_are_refused() {
    let message = problem(&small().u32("llama.block_count", 3));
    assert_eq!(message, "metadata key `llama.block_count` appears twice");
    let message = problem(&small().f32_tensor("norm.weight", &[1], &[1.0]));
    assert_eq!(message, "tensor `norm.weight` appears twice");
    let message = problem(&small().raw_tensor("again", &[4], 0, 0, &[]));
    assert!(message.contains("overlaps"), "{message}");
}

#[test]
fn absurd_sizes_are_refused_without_allocating() {
    let nested = small().array("k", 9, 1, &[0; 32]);
    assert!(problem(&nested).contains("array of arrays"));
    for element_type in [0, 4, 7, 8, 12] {
        let message = problem(&small().array("k", element_type, u64::MAX, &[]));
        assert!(message.starts_with("truncated: metadata key `k`"), "{message}");
    }
    let message = problem(&small().raw("k", 8, &(1_u64 << 40).to_le_bytes()));
    assert!(message.contains("more than the"), "{message}");
    assert!(problem(&small().raw("k", 99, &[0; 8])).contains("unknown value type 99"));
    assert!(problem(&small().raw("k", 7, &[2])).contains("expected 0 or 1"));
    assert!(problem(&small().raw("k", 8, &[1, 0, 0, 0, 0, 0, 0, 0, 0xff])).contains("UTF-8"));

    for shape in [&[u64::MAX][..], &[1 << 40, 1 << 40], &[1 << 22, 1 << 22, 1 << 22, 1 << 22]] {
        assert!(problem(&small().raw_tensor("t", shape, 0, 160, &[])).contains("elements"));
    }
    assert!(problem(&small().raw_tensor("t", &[0], 0, 160, &[])).contains("is 0"));
    assert!(problem(&small().raw_tensor("t", &[], 0, 160, &[])).contains("0 dimensions"));
    assert!(problem(&small().raw_tensor("t", &[1; 5], 0, 160, &[])).contains("5 dimensions"));
    assert!(
        problem(&small().raw_tensor("t", &[33], 2, 160, &[])).contains("rows have 33 elements")
    );
    assert!(problem(&small().raw_tensor("t", &[4], 77, 160, &[])).contains("ggml type 77"));
    assert!(problem(&small().raw_tensor("t", &[4], 0, 161, &[0; 64])).contains("alignment"));
    let far = u64::MAX - 31;
    assert!(problem(&small().raw_tensor("t", &[4], 0, far, &[])).contains("overflows"));
    for alignment in [0, 3, 1 << 30] {
        let message = problem(&small().u32("general.alignment", alignment));
        assert!(message.contains("power of two"), "{message}");
    }
}

#[test]
fn absurd_counts_are_refused() {
    for position in [8, 16] {
        let mut bytes = small().bytes();
        bytes[position..position + 8].copy_from_slice(&u64::MAX.to_le_bytes());
        let message = open_bytes(&bytes).unwrap_err().kind.to_string();
        assert!(message.starts_with("truncated"), "{message}");
    }
}

#[test]
fn sparse_file_cannot_enlarge_the_header() {
    let bytes = GgufWriter::new().array("k", 0, 1 << 38, &[]).bytes();
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(&bytes).unwrap();
    file.as_file().set_len(1 << 40).unwrap();
    let message = GgufFile::open(file.path()).unwrap_err().kind.to_string();
    assert!(message.contains("the header up to metadata key `k`"), "{message}");
}

/// Every prefix and every single flipped bit either opens or gives an error.
#[test]
fn truncation_and_bit_flips_never_panic() {
    let bytes = small().bytes();
    for len in 0..bytes.len() - 26 {
        assert!(open_bytes(&bytes[..len]).is_err(), "the first {len} bytes alone are no model");
    }
    for position in 0..bytes.len() {
        for bit in 0..8 {
            let mut broken = bytes.clone();
            broken[position] ^= 1 << bit;
            if let Ok(file) = open_bytes(&broken) {
                for tensor in file.tensors() {
                    assert!(tensor.bytes <= bytes.len() as u64);
                    file.read_tensor(tensor, 0, &mut vec![0; tensor.bytes as usize]).unwrap();
                }
            }
        }
    }
}
