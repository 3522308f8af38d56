//! The project's rules that the compiler does not check.

use std::fs;
use std::path::{Path, PathBuf};

use ingle_tests::fixture;

/// Every Rust file of the workspace, with its path from the root.
fn sources() -> Vec<(PathBuf, String)> {
    let root = fixture("..");
    let mut folders =
        ["protocol", "shim", "daemon", "tests", "packaging"].map(PathBuf::from).to_vec();
    let mut files = Vec::new();
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(root.join(&folder)).unwrap() {
            let entry = entry.unwrap();
            let path = folder.join(entry.file_name());
            if entry.file_type().unwrap().is_dir() && entry.file_name() != "target" {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let text = fs::read_to_string(root.join(&path)).unwrap();
                files.push((path, text));
            }
        }
    }
    assert!(files.len() > 50);
    files
}

/// Lines of code without comments, so that comments may name what code may not use.
fn code_lines(text: &str) -> impl Iterator<Item = &str> {
    text.lines().map(str::trim).filter(|line| !line.starts_with("//"))
}

fn offenders(is_allowed: impl Fn(&Path) -> bool, is_bad: impl Fn(&str) -> bool) -> Vec<String> {
    let files = sources();
    let outside = files.iter().filter(|(path, _)| !is_allowed(path));
    outside
        .flat_map(|(path, text)| {
            let bad = code_lines(text).filter(|line| is_bad(line));
            bad.map(|line| format!("{}: {line}", path.display())).collect::<Vec<_>>()
        })
        .collect()
}

const HERE: &str = "tests/tests/it/tidy.rs";

#[test]
fn unsafe_code_is_in_named_crates_only() {
    let allowed = |path: &Path| {
        path.starts_with("daemon/engine-mlx/src")
            || path == Path::new("daemon/scheduler/src/crash_journal/signals.rs")
            || path == Path::new("daemon/engine/src/heap.rs")
            || path.starts_with("packaging/mlx-sys")
            || path.starts_with("packaging/llama-guard")
            || path == Path::new("daemon/engine-llama/benches/engines.rs")
            || path == Path::new(HERE)
    };
    let is_unsafe = |line: &str| {
        line.contains("unsafe {") || line.contains("unsafe fn") || line.contains("unsafe impl")
    };
    let bad = offenders(allowed, is_unsafe);
    assert!(bad.is_empty(), "{bad:#?}");
}

#[test]
fn no_channel_is_unbounded() {
    let is_unbounded =
        |line: &str| line.contains("unbounded_channel") || line.contains("mpsc::channel()");
    let in_tests = |path: &Path| {
        path.ends_with("tests.rs") || path.components().any(|part| part.as_os_str() == "tests")
    };
    let bad = offenders(in_tests, is_unbounded);
    assert!(bad.is_empty(), "{bad:#?}");
}

#[test]
fn every_module_has_a_header() {
    let bad: Vec<_> = sources()
        .into_iter()
        .filter(|(_, text)| !text.starts_with("//!"))
        .map(|(path, _)| path)
        .collect();
    assert!(bad.is_empty(), "{bad:#?}");
}

#[test]
fn shim_links_no_model_code_and_no_server() {
    let manifest = fs::read_to_string(fixture("../shim/Cargo.toml")).unwrap();
    for crate_name in ["ingled", "jsonrpsee", "rmcp", "axum", "hyper", "tokenizers", "mlx"] {
        let named = manifest.lines().any(|line| line.trim_start().starts_with(crate_name));
        assert!(!named, "the shim depends on {crate_name}");
    }
}

/// Prompts and outputs are never logged: log lines carry no text of a request.
#[test]
fn log_lines_carry_no_request_text() {
    let is_bad = |line: &str| {
        line.contains("tracing::")
            && ["prompt", "text =", "content", "messages"].iter().any(|word| line.contains(word))
    };
    let bad = offenders(|path| !path.starts_with("daemon"), is_bad);
    assert!(bad.is_empty(), "{bad:#?}");
}
