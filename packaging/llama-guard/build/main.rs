//! Compiles `guard.cpp` against the llama.cpp headers that llama-cpp-sys-2 installs.

use std::env;
use std::path::Path;

fn main() {
    println!("cargo::rerun-if-changed=src/guard.cpp");
    println!("cargo::rerun-if-changed=src/guard.h");
    // `<out>/lib/cmake` of llama-cpp-sys-2's build; the headers are in `<out>/include`.
    let cmake_dir = env::var("DEP_LLAMA_GGML_CMAKE_DIR").unwrap_or_default();
    let include = Path::new(&cmake_dir).ancestors().nth(2).map(|out| out.join("include"));
    let Some(include) = include.filter(|include| include.join("llama.h").is_file()) else {
        println!(
            "cargo::error=llama-cpp-sys-2 has installed no llama.h next to `{cmake_dir}`; \
             run `cargo clean -p llama-cpp-sys-2` and build again"
        );
        return;
    };
    cc::Build::new()
        .cpp(true)
        .std("c++17")
        .include(include)
        .file("src/guard.cpp")
        // Deprecated declarations in llama.h are not ours to mend.
        .flag_if_supported("-Wno-deprecated-declarations")
        .warnings(true)
        .compile("ingle_llama_guard");
}
