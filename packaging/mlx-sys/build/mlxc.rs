//! mlx-c, the C interface to MLX: where its source comes from and how it is compiled.
//!
//! The source ships inside the published crate mlx-sys 0.7.0. It is not copied into this
//! repository: `mlxc-source/` is a package with a lock file of its own that names that crate, so
//! cargo fetches, verifies and unpacks it like any other dependency.

use crate::error::{BuildError, Result, output_of};
use crate::target::Target;
use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The published crate that carries the source; pinned again, by hash, in the lock file.
const CARRIER: &str = "mlx-sys";

const FETCH_HINT: &str = "the crate mlx-sys 0.7.0 carries mlx-c's source and must be fetched \
    once. Without a network, set INGLE_MLXC_SOURCE to its unpacked `src/mlx-c` folder";

/// Returns the root of the mlx-c source, the folder that holds `mlx/c/*.h`.
///
/// Taken from `INGLE_MLXC_SOURCE` if set, else from cargo's registry cache, fetched if need be.
pub(crate) fn find_source(manifest_dir: &Path) -> Result<PathBuf> {
    let root = match env::var_os("INGLE_MLXC_SOURCE") {
        Some(root) => PathBuf::from(root),
        None => fetch_source(manifest_dir)?,
    };
    if root.join("mlx/c/mlx.h").is_file() {
        return Ok(root);
    }
    Err(BuildError::new(format!("no mlx-c source in {}", root.display()), FETCH_HINT))
}

fn fetch_source(manifest_dir: &Path) -> Result<PathBuf> {
    let manifest = manifest_dir.join("mlxc-source/Cargo.toml");
    let cargo = env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let run = |args: &[&str]| {
        output_of(Command::new(&cargo).args(args).arg("--manifest-path").arg(&manifest), FETCH_HINT)
    };
    // Offline first: when the source is there already, the build never touches the network.
    let metadata = ["metadata", "--locked", "--offline", "--format-version", "1"];
    let found = run(&metadata).or_else(|_| {
        run(&["fetch", "--locked"])?;
        run(&metadata)
    })?;
    let found: serde_json::Value = serde_json::from_slice(&found).map_err(|error| {
        BuildError::new(format!("cargo metadata printed no JSON: {error}"), FETCH_HINT)
    })?;
    found["packages"]
        .as_array()
        .into_iter()
        .flatten()
        .find(|package| package["name"] == CARRIER)
        .and_then(|package| Path::new(package["manifest_path"].as_str()?).parent())
        .map(|package_dir| package_dir.join("src/mlx-c"))
        .ok_or_else(|| BuildError::new("cargo metadata does not list mlx-sys", FETCH_HINT))
}

/// Compiles mlx-c from `source`, and Ingle's own CPU operations from `cpu/`, against the MLX headers
/// in `mlx_include` into a static library, and tells cargo to link it.
pub(crate) fn compile(
    target: &Target,
    source: &Path,
    mlx_include: &Path,
    manifest_dir: &Path,
) -> Result<()> {
    let folder = source.join("mlx/c");
    let mut files: Vec<PathBuf> = fs::read_dir(&folder)
        .map_err(|error| BuildError::io("read", &folder, &error))?
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| path.extension().is_some_and(|extension| extension == "cpp"))
        .collect();
    files.sort();

    let cpu = manifest_dir.join("cpu");
    let mut build = common();
    build
        .cpp(true)
        .std("c++20")
        .include(source)
        .include(mlx_include)
        // Error messages name the source file: without the path of the machine that built it.
        .flag(format!("-ffile-prefix-map={}=mlx-c", source.display()))
        .flag("-include")
        .flag(manifest_dir.join("shim/std_format.h"))
        .files(files)
        .file(cpu.join("ingle_cpu.cpp"))
        .file(cpu.join("pool.cpp"));
    for &(table, flags) in kernel_variants(target) {
        let mut kernels = common();
        // A folder each: the objects of one source file would overwrite one another.
        kernels.out_dir(target.out_dir.join(table));
        kernels.opt_level(3).std("c11").define("INGLE_KERNELS", table);
        for &flag in flags {
            kernels.flag(flag);
        }
        let objects =
            kernels.file(cpu.join("kernels.c")).try_compile_intermediates().map_err(no_compiler)?;
        build.objects(objects);
    }
    build.try_compile("mlxc").map_err(no_compiler)
}

/// Settings of everything compiled here.
fn common() -> cc::Build {
    let mut build = cc::Build::new();
    build
        // The same code whatever the profile: mlx-c only forwards calls, and an unoptimised build
        // of MLX's header templates is several times larger.
        .opt_level(2)
        .debug(false)
        .define("NDEBUG", None)
        .warnings(false)
        // The wheel's own minimum; below 13.3 libc++ withholds std::format.
        .env("MACOSX_DEPLOYMENT_TARGET", "14.0");
    build
}

/// The instruction sets that `kernels.c` is compiled for: table name and compiler flags.
fn kernel_variants(target: &Target) -> &'static [(&'static str, &'static [&'static str])] {
    match target.arch.as_str() {
        "x86_64" => &[
            ("ingle_kernels_base", &[]),
            ("ingle_kernels_v3", &["-mavx2", "-mfma"]),
            ("ingle_kernels_v4", &["-mavx512f", "-mavx512bw", "-mavx512dq", "-mavx512vl", "-mfma"]),
        ],
        _ => &[("ingle_kernels_base", &[])],
    }
}

fn no_compiler(error: cc::Error) -> BuildError {
    BuildError::new(
        format!("the C++ part did not compile: {error}"),
        "install a C++20 compiler (Debian: `apt install g++`, GCC 12 or later; macOS: \
         `xcode-select --install`), or name one with CXX",
    )
}
