//! Build script of the patched `mlx-sys`: links Apple's prebuilt MLX.
//!
//! In order: find the pinned wheel (`wheel`), assemble the library folder that is linked here and
//! installed later (`tree`), compile mlx-c against it (`mlxc`), generate the bindings
//! (`bindings`). Dependents receive, as `DEP_MLX_*`:
//!
//! - `ROOT`: the library folder, to be installed as `lib/ingle` next to the daemon's `bin`;
//! - `LIBDIR`: the folder inside it that holds `libmlx`, for the run path;
//! - `LIBDIR_IN_ROOT`: the same, relative to `ROOT`;
//! - `VERSION`: the MLX version.

mod bindings;
mod error;
mod mlxc;
mod target;
mod tree;
mod wheel;

use crate::error::Result;
use crate::target::Target;
use std::env;
use std::path::PathBuf;
use std::process::ExitCode;

/// Variables that change what is built.
const INPUTS: &[&str] = &[
    "INGLE_CACHE_DIR",
    "INGLE_MLXC_SOURCE",
    "INGLE_MLX_BACKEND",
    "INGLE_MLX_PREFIX",
    "INGLE_MLX_WHEEL",
    "INGLE_OPENBLAS",
];

fn main() -> ExitCode {
    match build() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

fn build() -> Result<()> {
    for path in ["build", "cpu", "mlxc-source", "shim"] {
        println!("cargo::rerun-if-changed={path}");
    }
    for name in INPUTS {
        println!("cargo::rerun-if-env-changed={name}");
    }

    let manifest_dir = PathBuf::from(env::var_os("CARGO_MANIFEST_DIR").unwrap_or_default());
    let target = Target::from_env()?;
    let mlx = wheel::locate(&target)?;
    let tree = tree::assemble(&target, &mlx)?;
    let source = mlxc::find_source(&manifest_dir)?;
    bindings::generate(&source, &manifest_dir.join("cpu"), &target.out_dir)?;
    mlxc::compile(&target, &source, &mlx.join("mlx/include"), &manifest_dir)?;

    println!("cargo::rustc-link-search=native={}", tree.lib_dir.display());
    println!("cargo::rustc-link-lib=dylib=mlx");
    println!("cargo::metadata=root={}", tree.root.display());
    println!("cargo::metadata=libdir={}", tree.lib_dir.display());
    println!("cargo::metadata=libdir_in_root=mlx/lib");
    println!("cargo::metadata=version={}", wheel::MLX_VERSION);
    Ok(())
}
