//! Rust declarations of mlx-c, generated from its headers.

use crate::error::{BuildError, Result};
use std::fs;
use std::panic::{self, AssertUnwindSafe};
use std::path::{Path, PathBuf};

/// Generates `bindings.rs` in `out_dir` from every public header of the mlx-c source at `source` and
/// from Ingle's own operations in the folder `cpu`.
pub(crate) fn generate(source: &Path, cpu: &Path, out_dir: &Path) -> Result<()> {
    let folder = source.join("mlx/c");
    let mut headers: Vec<PathBuf> = fs::read_dir(&folder)
        .map_err(|error| BuildError::io("read", &folder, &error))?
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| path.extension().is_some_and(|extension| extension == "h"))
        .collect();
    headers.sort();
    headers.push(cpu.join("ingle_cpu.h"));

    let builder = bindgen::Builder::default()
        .rust_edition(bindgen::RustEdition::Edition2024)
        .clang_arg(format!("-I{}", source.display()))
        .headers(headers.iter().map(|path| path.to_string_lossy()))
        // Comments are Doxygen markup, which rustdoc would take for broken links.
        .generate_comments(false)
        // Declaring these with bindgen's own integer types clashes with rustc's knowledge of them.
        .blocklist_function("malloc")
        .blocklist_function("realloc");

    // bindgen panics when it cannot load libclang; that is the commonest failure of all, and it
    // deserves words that help.
    let quiet = panic::take_hook();
    panic::set_hook(Box::new(|_| {}));
    let outcome = panic::catch_unwind(AssertUnwindSafe(|| builder.generate()));
    panic::set_hook(quiet);

    let bindings = match outcome {
        Ok(Ok(bindings)) => bindings,
        Ok(Err(error)) => {
            return Err(BuildError::new(
                format!("bindgen could not read mlx-c's headers: {error}"),
                "install the C headers (Debian: `apt install libc6-dev libclang-dev`)",
            ));
        }
        Err(_) => {
            return Err(BuildError::new(
                "libclang, which bindgen reads headers with, was not found",
                "install it (Debian: `apt install libclang-dev`; macOS: `xcode-select --install`), \
                 or set LIBCLANG_PATH to the folder that holds it",
            ));
        }
    };
    let file = out_dir.join("bindings.rs");
    bindings.write_to_file(&file).map_err(|error| BuildError::io("write", &file, &error))
}
