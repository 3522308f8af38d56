//! The build target and the requested MLX backend. Reads Cargo's variables and
//! `INGLE_MLX_BACKEND`; knows nothing of wheels.

use crate::error::{BuildError, Result};
use std::env;
use std::path::PathBuf;

/// A family of MLX builds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Backend {
    /// CPU only: the default on Linux.
    Cpu,
    /// Metal, together with the CPU backend: the only choice on macOS.
    Metal,
    /// CUDA 12.
    Cuda12,
    /// CUDA 13.
    Cuda13,
}

/// Operating systems for which MLX wheels exist.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Os {
    /// Linux with glibc.
    Linux,
    /// macOS.
    MacOs,
}

/// The target of this build.
pub(crate) struct Target {
    /// Operating system.
    pub(crate) os: Os,
    /// `x86_64` or `aarch64`.
    pub(crate) arch: String,
    /// The MLX backend to link.
    pub(crate) backend: Backend,
    /// Cargo's output folder of this build script.
    pub(crate) out_dir: PathBuf,
}

impl Target {
    /// Reads the target from the variables that Cargo sets for build scripts.
    pub(crate) fn from_env() -> Result<Self> {
        let arch = cargo_var("CARGO_CFG_TARGET_ARCH")?;
        let os_name = cargo_var("CARGO_CFG_TARGET_OS")?;
        let env_name = env::var("CARGO_CFG_TARGET_ENV").unwrap_or_default();
        let os = match (os_name.as_str(), arch.as_str(), env_name.as_str()) {
            ("linux", "x86_64" | "aarch64", "gnu") => Os::Linux,
            ("macos", "aarch64", _) => Os::MacOs,
            _ => {
                return Err(BuildError::new(
                    format!("there is no MLX build for {os_name} {arch} {env_name}"),
                    "build for Linux (x86-64 or arm64, glibc) or for macOS on Apple silicon",
                ));
            }
        };
        Ok(Self { os, arch, backend: backend(os)?, out_dir: cargo_var("OUT_DIR")?.into() })
    }
}

/// The backend that `INGLE_MLX_BACKEND` names, or the platform's default.
fn backend(os: Os) -> Result<Backend> {
    let default = if os == Os::MacOs { Backend::Metal } else { Backend::Cpu };
    let Ok(name) = env::var("INGLE_MLX_BACKEND") else { return Ok(default) };
    match (name.as_str(), os) {
        ("", _) => Ok(default),
        ("cpu", Os::Linux) => Ok(Backend::Cpu),
        ("metal", Os::MacOs) => Ok(Backend::Metal),
        ("cuda12", Os::Linux) => Ok(Backend::Cuda12),
        ("cuda13", Os::Linux) => Ok(Backend::Cuda13),
        _ => Err(BuildError::new(
            format!("INGLE_MLX_BACKEND={name} is not available for this target"),
            "use cpu, cuda12 or cuda13 on Linux, metal on macOS, or unset it for the default",
        )),
    }
}

fn cargo_var(name: &str) -> Result<String> {
    env::var(name).map_err(|_| {
        BuildError::new(format!("{name} is not set"), "run this build script through cargo")
    })
}
