//! Tests of the reader on valid and hostile files.

use super::testing::SafetensorsWriter;
use super::*;

fn open(bytes: Vec<u8>) -> Result<SafetensorsFile, SafetensorsError> {
    SafetensorsFile::from_bytes(Path::new("m.safetensors"), bytes)
}

fn small() -> SafetensorsWriter {
    SafetensorsWriter::new()
        .raw(r#""__metadata__":{"format":"mlx"}"#)
        .f32_tensor("norm", &[2], &[1.0, 2.0])
        .tensor("w", "BF16", &[3, 2], &[7; 12])
}

fn problem(writer: &SafetensorsWriter) -> String {
    open(writer.bytes()).expect_err("the file is broken").to_string()
}

#[test]
fn valid_file_gives_its_tensors() {
    let bytes = small().bytes();
    let mut written = tempfile::NamedTempFile::new().unwrap();
    std::io::Write::write_all(&mut written, &bytes).unwrap();
    for file in [open(bytes).unwrap(), SafetensorsFile::open(written.path()).unwrap()] {
        let [norm, weight] = file.tensors() else { panic!("two tensors") };
        assert_eq!((norm.name.as_str(), norm.dtype, norm.bytes), ("norm", Dtype::F32, 8));
        assert_eq!((weight.shape.as_slice(), weight.dtype), ([3, 2].as_slice(), Dtype::BF16));
        let mut bytes = [0; 4];
        file.read_tensor(norm, 4, &mut bytes).unwrap();
        assert_eq!(f32::from_le_bytes(bytes), 2.0);
        let past = file.read_tensor(weight, 10, &mut bytes).unwrap_err();
        assert!(matches!(past.kind, SafetensorsErrorKind::Truncated { .. }), "{past}");
    }
}

#[test]
fn errors_name_each_wrong_field() {
    let entry = |text: &str| problem(&small().raw(text));
    let cases = [
        (
            entry(r#""t":{"dtype":"F32","shape":[2],"data_offsets":[20,24]}"#),
            "tensor `t`: its data offsets are 20..24, but [2] elements of F32 take 8 bytes",
        ),
        (entry(r#""t":{"dtype":"F32","shape":[2],"data_offsets":[28,20]}"#), "28..20"),
        (entry(r#""t":{"dtype":"F32","shape":[2],"data_offsets":[20,28]}"#), "needs bytes"),
        (
            entry(r#""t":{"dtype":"F32","shape":[1],"data_offsets":[8,12]}"#),
            "begins at 8, expected 20",
        ),
        (entry(r#""t":{"dtype":"F4","shape":[1],"data_offsets":[20,20]}"#), "0 bytes"),
        (entry(r#""t":{"dtype":"Q9","shape":[],"data_offsets":[20,24]}"#), "type `Q9` is unknown"),
        (entry(r#""t":{"dtype":"F32","shape":[0],"data_offsets":[20,20]}"#), "dimensions is 0"),
        (
            entry(
                r#""t":{"dtype":"U8","shape":[18446744073709551615,2],"data_offsets":[20,18446744073709551615]}"#,
            ),
            "the number of elements of tensor `t` is 18446744073709551615, more than",
        ),
        (
            entry(r#""t":{"dtype":"F32","shape":[18446744073709551616],"data_offsets":[0,0]}"#),
            "tensor `t`: invalid type: floating point",
        ),
        (entry(r#""t":{"dtype":"F32","shape":[-1],"data_offsets":[0,0]}"#), "integer `-1`"),
        (entry(r#""t":{"dtype":"F32","shape":[1]}"#), "missing field `data_offsets`"),
        (entry(r#""t":{"dtype":"F32","shape":[1],"data_offsets":[0,0],"x":1}"#), "unknown field"),
        (
            entry(r#""t":{"dtype":"F32","shape":[1,1,1,1,1,1,1,1,1],"data_offsets":[20,24]}"#),
            "9 dimensions",
        ),
        (
            entry(r#""norm":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}"#),
            "`norm`: it appears twice",
        ),
        (entry(r#""t":3"#), "tensor `t`: invalid type"),
        (entry(&format!(r#""{}":{{}}"#, "n".repeat(2_000))), "name has 2000 bytes"),
        (problem(&SafetensorsWriter::new().raw("]")), "the header"),
    ];
    for (message, expected) in cases {
        assert!(message.starts_with("m.safetensors: "), "{message}");
        assert!(message.contains(expected), "{message}: expected {expected}");
    }
}

#[test]
fn wrong_lengths_are_refused_without_allocating() {
    let sound = small().bytes();
    let header = u64::from_le_bytes(sound[..8].try_into().unwrap());
    for (length, expected) in [
        (header - 1, "EOF while parsing"),
        (header + 1, "trailing characters"),
        (1 << 20, "truncated: the header needs bytes 8..1048584"),
        (1 << 40, "the header's length in bytes is 1099511627776, more than"),
        (u64::MAX, "more than the 33554432 allowed"),
        (0, "does not begin with `{`"),
    ] {
        let mut bytes = sound.clone();
        bytes[..8].copy_from_slice(&length.to_le_bytes());
        let message = open(bytes).unwrap_err().to_string();
        assert!(message.contains(expected), "{length}: {message}");
    }
    let longer = [sound.as_slice(), &[0]].concat();
    let message = open(longer).unwrap_err().to_string();
    assert!(message.contains("they end at byte 20, but the file has 21"), "{message}");
    let message = open(sound[..sound.len() - 3].to_vec()).unwrap_err().to_string();
    assert!(message.contains("truncated: tensor `w` needs bytes"), "{message}");
}

/// Every prefix and every single flipped bit either opens or gives an error.
#[test]
fn truncation_and_bit_flips_never_panic() {
    let bytes = small().bytes();
    for len in 0..bytes.len() {
        assert!(open(bytes[..len].to_vec()).is_err(), "the first {len} bytes alone are no file");
    }
    for position in 0..bytes.len() {
        for bit in 0..8 {
            let mut broken = bytes.clone();
            broken[position] ^= 1 << bit;
            if let Ok(file) = open(broken) {
                for tensor in file.tensors() {
                    assert!(tensor.bytes <= bytes.len() as u64);
                    file.read_tensor(tensor, 0, &mut vec![0; tensor.bytes as usize]).unwrap();
                }
            }
        }
    }
}
