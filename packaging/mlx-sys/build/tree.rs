//! The library folder: the shared libraries an installed daemon needs, and nothing else.
//!
//! It keeps the wheel's own layout (`mlx/lib` next to `*.libs`), because `libmlx` finds its
//! neighbours relative to itself; so the folder works wherever it is copied as a whole. On Linux
//! the wheel's reference BLAS, some fifty times slower, is replaced by a link to OpenBLAS.

use crate::error::{BuildError, Result};
use crate::target::{Os, Target};
use std::env;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

/// An assembled library folder.
pub(crate) struct Tree {
    /// The folder to copy when installing.
    pub(crate) root: PathBuf,
    /// The folder inside it that holds `libmlx`.
    pub(crate) lib_dir: PathBuf,
}

/// Assembles the folder from the unpacked wheel at `wheel_root`.
///
/// It lies in `lib/ingle` of the profile's folder (`target/release/lib/ingle`), where the daemon
/// finds it relative to itself and an install step can copy it. Files are hard links into the
/// cache where the file system allows it.
pub(crate) fn assemble(target: &Target, wheel_root: &Path) -> Result<Tree> {
    // OUT_DIR is <profile folder>/build/<package>-<hash>/out.
    let profile_dir = target.out_dir.ancestors().nth(3).unwrap_or(&target.out_dir);
    let root = profile_dir.join("lib/ingle");
    let partial = profile_dir.join(format!("lib/.ingle-{}", std::process::id()));
    remove(&partial)?;

    link_folder(&wheel_root.join("mlx/lib"), &partial.join("mlx/lib"))?;
    for entry in read_dir(wheel_root)? {
        let name = entry.file_name().unwrap_or_default().to_string_lossy().into_owned();
        if name.ends_with(".libs") {
            link_folder(&entry, &partial.join(&name))?;
            if target.os == Os::Linux {
                replace_blas(target, &partial.join(&name))?;
            }
        } else if name.ends_with(".dist-info") {
            let license = entry.join("licenses/LICENSE");
            if license.is_file() {
                link_file(&license, &partial.join("LICENSE-MLX"))?;
            }
        }
    }

    remove(&root)?;
    fs::rename(&partial, &root).map_err(|error| BuildError::io("create", &root, &error))?;
    let lib_dir = root.join("mlx/lib");
    Ok(Tree { root, lib_dir })
}

/// Replaces the reference BLAS and LAPACK in `libs` by links to the system's OpenBLAS, which holds
/// both and exports the same symbols.
fn replace_blas(target: &Target, libs: &Path) -> Result<()> {
    let Some(openblas) = find_openblas(target)? else {
        println!(
            "cargo::warning=OpenBLAS was not found: MLX on the CPU will run on the reference BLAS, \
             about 50 times slower. Install it (Debian: apt install libopenblas0-pthread) and run \
             `cargo clean -p mlx-sys`, or set INGLE_OPENBLAS to the library's path"
        );
        return Ok(());
    };
    for path in read_dir(libs)? {
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        if name.starts_with("libblas") || name.starts_with("liblapack") {
            remove(&path)?;
            symlink(&openblas, &path).map_err(|error| BuildError::io("create", &path, &error))?;
        }
    }
    Ok(())
}

/// The OpenBLAS that `INGLE_OPENBLAS` names, or the system's; `None` when there is none, or when
/// the variable says `none`.
fn find_openblas(target: &Target) -> Result<Option<PathBuf>> {
    if let Some(path) = env::var_os("INGLE_OPENBLAS") {
        let path = PathBuf::from(path);
        return match path.to_str() {
            Some("none") => Ok(None),
            _ if path.is_file() => Ok(Some(path)),
            _ => Err(BuildError::new(
                format!("INGLE_OPENBLAS names {}, which is not a file", path.display()),
                "name the shared library (libopenblas.so.0), or unset the variable",
            )),
        };
    }
    if env::var_os("HOST") != env::var_os("TARGET") {
        return Ok(None); // The libraries found here would be this machine's, not the target's.
    }
    // The pthread builds come first: the serial ones use one core, and the OpenMP ones start a
    // second pool of threads in addition to MLX's.
    let triple = format!("/usr/lib/{}-linux-gnu", target.arch);
    let candidates = [
        format!("{triple}/openblas-pthread/libopenblas.so.0"),
        "/usr/lib64/libopenblasp.so.0".to_owned(),
        "/usr/lib/libopenblasp.so.0".to_owned(),
        format!("{triple}/libopenblas.so.0"),
        "/usr/lib64/libopenblas.so.0".to_owned(),
        "/usr/lib/libopenblas.so.0".to_owned(),
    ];
    Ok(candidates.into_iter().map(PathBuf::from).find(|path| path.is_file()))
}

fn link_folder(from: &Path, to: &Path) -> Result<()> {
    fs::create_dir_all(to).map_err(|error| BuildError::io("create", to, &error))?;
    for file in read_dir(from)? {
        if let Some(name) = file.file_name().filter(|_| file.is_file()) {
            link_file(&file, &to.join(name))?;
        }
    }
    Ok(())
}

fn link_file(from: &Path, to: &Path) -> Result<()> {
    // A hard link fails across file systems; then the file is copied.
    if fs::hard_link(from, to).is_err() {
        fs::copy(from, to).map_err(|error| BuildError::io("copy", from, &error))?;
    }
    Ok(())
}

fn read_dir(dir: &Path) -> Result<Vec<PathBuf>> {
    fs::read_dir(dir)
        .and_then(|entries| entries.map(|entry| entry.map(|entry| entry.path())).collect())
        .map_err(|error| BuildError::io("read", dir, &error))
}

/// Removes a file, link or folder; its absence is fine.
fn remove(path: &Path) -> Result<()> {
    let result = if path.is_dir() && !path.is_symlink() {
        fs::remove_dir_all(path)
    } else {
        fs::remove_file(path)
    };
    match result {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(BuildError::io("remove", path, &error))
        }
        _ => Ok(()),
    }
}
