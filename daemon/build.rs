//! Tells the linker where the daemon finds MLX at run time, without a library path setting.

use std::env;

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    // Set by packaging/mlx-sys, which assembles the library folder in `lib/ingle` of the profile's
    // folder. Absent when MLX is not linked.
    let (Ok(lib_dir), Ok(in_root)) =
        (env::var("DEP_MLX_LIBDIR"), env::var("DEP_MLX_LIBDIR_IN_ROOT"))
    else {
        return;
    };
    let macos = env::var("CARGO_CFG_TARGET_OS").as_deref() == Ok("macos");
    let origin = if macos { "@loader_path" } else { "$ORIGIN" };
    // `../lib/ingle` serves an installed `bin/ingled` and the test programs in `deps`;
    // `lib/ingle` serves `target/<profile>/ingled` and an unpacked archive.
    println!("cargo::rustc-link-arg=-Wl,-rpath,{origin}/../lib/ingle/{in_root}");
    println!("cargo::rustc-link-arg=-Wl,-rpath,{origin}/lib/ingle/{in_root}");
    // A build folder set apart from the target folder needs the absolute path. It stays out of
    // release builds, which may be given to other people.
    if env::var("PROFILE").as_deref() != Ok("release") {
        println!("cargo::rustc-link-arg=-Wl,-rpath,{lib_dir}");
    }
}
