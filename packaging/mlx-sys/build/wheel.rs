//! Apple's prebuilt MLX: which wheel serves a target, and how it gets onto this machine.
//!
//! Wheels are pinned by version and SHA-256, fetched with pip, unpacked once into a per-user cache
//! and used in place from there, so that a clean build fetches nothing. Does not know mlx-c.

use crate::error::{BuildError, Result, output_of};
use crate::target::{Backend, Os, Target};
use sha2::{Digest, Sha256};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::{env, fs};

/// The MLX release that mlx-c 0.7.0 is written against.
pub(crate) const MLX_VERSION: &str = "0.32.2";

/// One published wheel.
struct Wheel {
    os: Os,
    arch: &'static str,
    backend: Backend,
    /// Name of the package in the Python index.
    package: &'static str,
    /// Platform tag, as pip's `--platform` takes it.
    platform: &'static str,
    /// SHA-256 of the wheel file, in hexadecimal.
    sha256: &'static str,
}

/// Every wheel Ingle can link, version [`MLX_VERSION`] throughout. The macOS 14 build is used on
/// later systems too, so that one binary serves them all.
const WHEELS: &[Wheel] = &[
    Wheel {
        os: Os::Linux,
        arch: "x86_64",
        backend: Backend::Cpu,
        package: "mlx-cpu",
        platform: "manylinux_2_35_x86_64",
        sha256: "fc5d31b90fc4f457b2f9614ed45651a567d22a6a11a03d114a90a4e10bdd8878",
    },
    Wheel {
        os: Os::Linux,
        arch: "aarch64",
        backend: Backend::Cpu,
        package: "mlx-cpu",
        platform: "manylinux_2_35_aarch64",
        sha256: "d0f94625588b51a878786dd51cec5617894ce586cf3c94645ce1b64e24c27c0b",
    },
    Wheel {
        os: Os::MacOs,
        arch: "aarch64",
        backend: Backend::Metal,
        package: "mlx-metal",
        platform: "macosx_14_0_arm64",
        sha256: "3825fff379dbc107dd3413e564a06caeaa24819910ec49c0439e454c06a1b9b8",
    },
    Wheel {
        os: Os::Linux,
        arch: "x86_64",
        backend: Backend::Cuda12,
        package: "mlx-cuda-12",
        platform: "manylinux_2_35_x86_64",
        sha256: "35445ead9724855826f310b9085d57137d0a2c5381cc293cb6d86b03bb4feadf",
    },
    Wheel {
        os: Os::Linux,
        arch: "x86_64",
        backend: Backend::Cuda13,
        package: "mlx-cuda-13",
        platform: "manylinux_2_35_x86_64",
        sha256: "335094ccd1c0c6dc3e09c8caba207c8180602bacc0c38ba20c1d81e9456ab394",
    },
    Wheel {
        os: Os::Linux,
        arch: "aarch64",
        backend: Backend::Cuda12,
        package: "mlx-cuda-12",
        platform: "manylinux_2_35_aarch64",
        sha256: "c794c697dcd28e00a51ce8813189ece1a8c62559de7cc5e27803cc591f55df05",
    },
    Wheel {
        os: Os::Linux,
        arch: "aarch64",
        backend: Backend::Cuda13,
        package: "mlx-cuda-13",
        platform: "manylinux_2_35_aarch64",
        sha256: "49b1a25df9021f3b519a534fd39a32a5cdbf93a1b265a31e59671c2d9fc9f4a2",
    },
];

const PYTHON_HINT: &str = "install Python 3 with pip (Debian: `apt install python3-pip`; macOS: \
    `xcode-select --install`). Without a network, set INGLE_MLX_WHEEL to a wheel file fetched \
    elsewhere, or INGLE_MLX_PREFIX to an unpacked one";

/// Returns the root of the unpacked wheel for `target`: the folder that holds `mlx/include` and
/// `mlx/lib`.
///
/// Taken, in this order, from `INGLE_MLX_PREFIX` (an unpacked wheel), the cache, `INGLE_MLX_WHEEL`
/// (a wheel file) or the Python index.
///
/// # Errors
/// When Python or pip is missing, the network is away, the hash differs from the pinned one, or
/// the MLX found is not version [`MLX_VERSION`].
pub(crate) fn locate(target: &Target) -> Result<PathBuf> {
    let root = match env::var_os("INGLE_MLX_PREFIX") {
        Some(prefix) => PathBuf::from(prefix),
        None => cached(target)?,
    };
    check_version(&root)?;
    Ok(root)
}

/// The unpacked wheel in the cache, put there first if need be.
fn cached(target: &Target) -> Result<PathBuf> {
    let wheel = WHEELS
        .iter()
        .find(|w| w.os == target.os && w.arch == target.arch && w.backend == target.backend)
        .ok_or_else(|| {
            BuildError::new(
                format!("no MLX wheel for {} with {:?}", target.arch, target.backend),
                "unset INGLE_MLX_BACKEND to use the platform's default",
            )
        })?;
    let cache = cache_dir()?.join("mlx");
    let home = cache.join(format!("{}-{MLX_VERSION}-{}", wheel.package, wheel.platform));
    if home.is_dir() {
        return Ok(home);
    }

    // Everything happens in a scratch folder of this process. The last step is one rename, so the
    // cache never shows a half-unpacked wheel, and of two builds at once the first one wins.
    let scratch = cache.join(format!(".partial-{}", std::process::id()));
    let result = fetch(wheel, &scratch).and_then(|unpacked| publish(&unpacked, &home));
    // A leftover scratch folder is clutter, not a failure.
    let _ = fs::remove_dir_all(&scratch);
    result.map(|()| home)
}

/// Fetches (or takes the local copy of) `wheel`, verifies it, and unpacks it inside `scratch`.
fn fetch(wheel: &Wheel, scratch: &Path) -> Result<PathBuf> {
    let unpacked = scratch.join("unpacked");
    fs::create_dir_all(&unpacked).map_err(|error| BuildError::io("create", &unpacked, &error))?;
    let file = match env::var_os("INGLE_MLX_WHEEL") {
        Some(file) => PathBuf::from(file),
        None => download(wheel, &scratch.join("download"))?,
    };
    verify(wheel, &file)?;
    output_of(
        Command::new("python3").args(["-m", "zipfile", "-e"]).arg(&file).arg(&unpacked),
        PYTHON_HINT,
    )?;
    Ok(unpacked)
}

/// Downloads `wheel` into the folder `into` with pip, which honours the user's index and proxies.
fn download(wheel: &Wheel, into: &Path) -> Result<PathBuf> {
    output_of(
        Command::new("python3")
            .args(["-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:"])
            // Asked for by name: pip would otherwise take the newest tag this machine can run, or
            // refuse one for another machine when cross-compiling.
            .args(["--platform", wheel.platform, "--dest"])
            .arg(into)
            .arg(format!("{}=={MLX_VERSION}", wheel.package)),
        PYTHON_HINT,
    )?;
    let mut files = fs::read_dir(into).map_err(|error| BuildError::io("read", into, &error))?;
    files
        .find_map(|entry| {
            let path = entry.ok()?.path();
            (path.extension()? == "whl").then_some(path)
        })
        .ok_or_else(|| {
            BuildError::new(format!("pip fetched no wheel of {}", wheel.package), PYTHON_HINT)
        })
}

/// Compares the SHA-256 of `file` with the pinned one.
fn verify(wheel: &Wheel, file: &Path) -> Result<()> {
    let bytes = fs::read(file).map_err(|error| BuildError::io("read", file, &error))?;
    let found: String = Sha256::digest(&bytes).iter().map(|byte| format!("{byte:02x}")).collect();
    if found == wheel.sha256 {
        return Ok(());
    }
    Err(BuildError::new(
        format!(
            "{} has SHA-256 {found}, expected {} ({} {MLX_VERSION}, {})",
            file.display(),
            wheel.sha256,
            wheel.package,
            wheel.platform
        ),
        "fetch the wheel again; to link an MLX of your own, unpack it and set INGLE_MLX_PREFIX",
    ))
}

/// Renames the finished folder into the cache, or lets a build that was faster win.
fn publish(unpacked: &Path, home: &Path) -> Result<()> {
    match fs::rename(unpacked, home) {
        Err(_) if home.is_dir() => Ok(()),
        Err(error) => Err(BuildError::io("create", home, &error)),
        Ok(()) => Ok(()),
    }
}

/// `INGLE_CACHE_DIR`, or `ingle` in the user's cache folder of the machine that builds.
fn cache_dir() -> Result<PathBuf> {
    if let Some(dir) = env::var_os("INGLE_CACHE_DIR") {
        return Ok(dir.into());
    }
    if let Some(dir) = env::var_os("XDG_CACHE_HOME").filter(|dir| !dir.is_empty()) {
        return Ok(PathBuf::from(dir).join("ingle"));
    }
    let home = env::home_dir().ok_or_else(|| {
        BuildError::new("this user has no home folder", "set INGLE_CACHE_DIR to a cache folder")
    })?;
    let caches = if cfg!(target_os = "macos") { "Library/Caches" } else { ".cache" };
    Ok(home.join(caches).join("ingle"))
}

/// Checks that `root` holds MLX headers of the pinned version.
fn check_version(root: &Path) -> Result<()> {
    let header = root.join("mlx/include/mlx/version.h");
    let text = fs::read_to_string(&header).map_err(|error| {
        BuildError::new(
            format!("no MLX headers: {}: {error}", header.display()),
            "INGLE_MLX_PREFIX must name the folder that holds mlx/include and mlx/lib; if it is \
             not set, delete the `mlx` folder of the cache and build again",
        )
    })?;
    let part = |name: &str| {
        text.lines()
            .find_map(|line| line.strip_prefix("#define MLX_VERSION_")?.strip_prefix(name))
            .map_or("?", str::trim)
            .to_owned()
    };
    let found = format!("{}.{}.{}", part("MAJOR"), part("MINOR"), part("PATCH"));
    if found == MLX_VERSION {
        return Ok(());
    }
    Err(BuildError::new(
        format!("MLX {found} in {}, but the bindings are for {MLX_VERSION}", root.display()),
        "point INGLE_MLX_PREFIX at the pinned version, or unset it",
    ))
}
