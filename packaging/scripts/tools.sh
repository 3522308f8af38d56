# shellcheck shell=bash
# What building Ingle needs, and how to get what is missing.
#
# Sourced, from the repository's root, by ./setup, ./test and .ci/run. Owns the list of tools, the
# two ways of installing them (apt when root on Debian, else a Python wheel or an instruction) and
# the variables that the build then needs. Knows nothing of what is built. Runs on bash 3.2, which
# is what macOS has.

# The libclang that bindgen uses where the system has none.
LIBCLANG_VERSION=18.1.1
LIBCLANG_SHA256_X86_64=c533091d8a3bbf7460a00cb6c1a71da93bffe148f172c7d03b1c31fbf8aa2a0b
LIBCLANG_SHA256_AARCH64=54dda940a4a0491a9d1532bf071ea3ef26e6dbaf03b5000ed94dd7174e8f9592

# The CMake that builds llama.cpp where the system has none.
CMAKE_VERSION=3.31.6
CMAKE_SHA256_X86_64=1c8b05df0602365da91ee6a3336fe57525b137706c4ab5675498f662ae1dbcec
CMAKE_SHA256_AARCH64=42d9883b8958da285d53d5f69d40d9650c2d1bcf922d82b3ebdceb2b3a7d4521
CMAKE_SHA256_MACOS=da9d4fd9abd571fd016ddb27da0428b10277010b23bb21e3678f8b9e96e1686e

# Prints one line about what happens now.
say() {
    printf '==> %s\n' "$*" >&2
}

# Prints what is wrong and the next step, and goes on.
warn() {
    printf 'warning: %s\nhint: %s\n' "$1" "$2" >&2
}

# Prints what is wrong and the next step, and ends the script.
die() {
    printf 'error: %s\nhint: %s\n' "$1" "$2" >&2
    exit 1
}

have() {
    command -v "$1" >/dev/null 2>&1
}

is_macos() {
    [ "$(uname -s)" = Darwin ]
}

# Whether a file matches one of the patterns.
any_file() {
    local pattern
    for pattern in "$@"; do
        if compgen -G "$pattern" >/dev/null; then
            return 0
        fi
    done
    return 1
}

# The folder for what is fetched once and used by many builds; the build of mlx-sys uses the same.
cache_dir() {
    if [ -n "${INGLE_CACHE_DIR:-}" ]; then
        printf '%s\n' "$INGLE_CACHE_DIR"
    elif [ -n "${XDG_CACHE_HOME:-}" ]; then
        printf '%s\n' "$XDG_CACHE_HOME/ingle"
    elif is_macos; then
        printf '%s\n' "$HOME/Library/Caches/ingle"
    else
        printf '%s\n' "$HOME/.cache/ingle"
    fi
}

# The folder that cargo builds into.
target_dir() {
    cargo metadata --no-deps --offline --format-version 1 |
        sed -n 's/.*"target_directory":"\([^"]*\)".*/\1/p'
}

check_rust() {
    local wanted found major minor
    wanted=$(sed -n 's/^rust-version = "\(.*\)"/\1/p' Cargo.toml)
    if ! have cargo || ! have rustc; then
        die "Rust is not installed" "install Rust $wanted or later with rustup (rustup.rs), then run this again"
    fi
    found=$(rustc --version | sed -n 's/^rustc \([0-9]*\.[0-9]*\).*/\1/p')
    major=${found%%.*} minor=${found#*.}
    if [ "$major" -lt "${wanted%%.*}" ] ||
        { [ "$major" -eq "${wanted%%.*}" ] && [ "$minor" -lt "${wanted#*.}" ]; }; then
        die "Rust $found is installed, and Ingle needs $wanted or later" "run: rustup update stable"
    fi
}

has_compiler() {
    # On macOS the programs exist as stand-ins even where the tools behind them do not.
    if is_macos; then
        xcode-select -p >/dev/null 2>&1
    else
        have cc && have c++
    fi
}

has_pip() {
    python3 -m pip --version >/dev/null 2>&1
}

has_libclang() {
    [ -n "${LIBCLANG_PATH:-}" ] || is_macos || any_file \
        '/usr/lib*/libclang.so*' '/usr/lib*/libclang-[0-9]*.so*' \
        '/usr/lib*/*/libclang.so*' '/usr/lib*/*/libclang-[0-9]*.so*' \
        '/usr/lib*/llvm*/lib*/libclang.so*' '/usr/local/lib*/libclang.so*'
}

# The C headers that belong to clang, such as stddef.h.
has_clang_headers() {
    is_macos || [ -n "${BINDGEN_EXTRA_CLANG_ARGS:-}" ] || any_file \
        '/usr/lib*/clang/*/include/stddef.h' '/usr/lib*/llvm*/lib*/clang/*/include/stddef.h' \
        '/usr/local/lib*/clang/*/include/stddef.h'
}

has_cmake() {
    have cmake
}

has_openblas() {
    is_macos || [ -n "${INGLE_OPENBLAS:-}" ] || any_file \
        '/usr/lib/*-linux-gnu/libopenblas.so.0' '/usr/lib/*-linux-gnu/openblas-pthread/libopenblas.so.0' \
        '/usr/lib64/libopenblas*.so.0' '/usr/lib/libopenblas*.so.0'
}

# Whether missing Debian packages can be installed here.
can_install() {
    have apt-get && [ "$(id -u)" -eq 0 ]
}

# The Debian packages of what is missing, one per line.
missing_packages() {
    has_compiler || echo g++
    has_pip || printf '%s\n' python3 python3-pip
    has_libclang || echo libclang-dev
    has_cmake || echo cmake
    have make || echo make
    has_openblas || echo libopenblas0-pthread
}

apt_install() {
    say "installing $* with apt"
    # The lists of a fresh machine are empty, and those of an old one name packages long gone.
    # One broken source of packages is no reason to give up; the installation will tell.
    DEBIAN_FRONTEND=noninteractive apt-get update -q >&2 || true
    DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends "$@" >&2 ||
        die "apt could not install $*" "see its messages above; then run this again"
}

# What a person should type to get the Debian packages named, on this system.
instruction_for() {
    if have apt-get; then
        printf 'run: sudo apt-get install %s\n' "$*"
    elif have dnf; then
        echo 'run: sudo dnf install gcc-c++ make cmake python3-pip clang-libs openblas-threads'
    elif have pacman; then
        echo 'run: sudo pacman -S gcc make cmake python-pip clang openblas'
    elif have zypper; then
        echo 'run: sudo zypper install gcc-c++ make cmake python3-pip libclang13 libopenblas_pthreads0'
    else
        echo 'install a C++ compiler, make, CMake, Python 3 with pip, libclang and OpenBLAS'
    fi
}

# Puts the Python wheel $1 in version $2 into the cache. $3 is the Debian package to name when that
# fails; what follows are the hashes it may have.
fetch_wheel() {
    local name=$1 version=$2 debian=$3 home requirements hash
    shift 3
    home=$(cache_dir)/$name-$version
    if [ -d "$home" ]; then
        return
    fi
    say "fetching $name $version with pip"
    mkdir -p "$(cache_dir)"
    requirements=$(mktemp)
    printf '%s==%s' "$name" "$version" >"$requirements"
    for hash in "$@"; do
        printf ' --hash=sha256:%s' "$hash" >>"$requirements"
    done
    printf '\n' >>"$requirements"
    rm -rf "$home.partial"
    # --target keeps it out of every Python environment, a system's protected one included.
    PIP_ROOT_USER_ACTION=ignore python3 -m pip install --quiet --disable-pip-version-check \
        --no-deps --no-compile --only-binary=:all: --require-hashes \
        --target "$home.partial" --requirement "$requirements" >&2 ||
        die "$name is missing, and pip could not fetch it" "$(instruction_for "$debian")"
    rm -f "$requirements"
    mv "$home.partial" "$home"
}

# Puts libclang from its Python wheel into the cache, and lets bindgen know.
use_libclang_wheel() {
    fetch_wheel libclang "$LIBCLANG_VERSION" libclang-dev \
        "$LIBCLANG_SHA256_X86_64" "$LIBCLANG_SHA256_AARCH64"
    LIBCLANG_PATH=$(cache_dir)/libclang-$LIBCLANG_VERSION/clang/native
    export LIBCLANG_PATH
}

# The same for CMake; llama.cpp's build finds it by PATH or by the variable.
use_cmake_wheel() {
    fetch_wheel cmake "$CMAKE_VERSION" cmake \
        "$CMAKE_SHA256_X86_64" "$CMAKE_SHA256_AARCH64" "$CMAKE_SHA256_MACOS"
    CMAKE=$(cache_dir)/cmake-$CMAKE_VERSION/cmake/data/bin/cmake
    if is_macos; then
        CMAKE=$(cache_dir)/cmake-$CMAKE_VERSION/cmake/data/CMake.app/Contents/bin/cmake
    fi
    export CMAKE
}

# Compiles C and C++ through ccache, so that llama.cpp, mlx-c and SQLite are compiled once for every
# profile, clone and `cargo clean`. Without ccache everything works and takes longer.
#
# The compilers' names come first in PATH as links to ccache. CC and CXX would do the same, but the
# build scripts of the crates run again when those change: cargo called by hand, without the
# variables of this script, would compile everything anew.
use_ccache() {
    local links name
    if ! have ccache && can_install; then
        DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends ccache \
            >/dev/null 2>&1 || true
    fi
    if ! have ccache; then
        return
    fi
    links=$(cache_dir)/ccache-links
    mkdir -p "$links"
    for name in cc c++; do
        # Another build may be calling it.
        [ "$links/$name" -ef "$(command -v ccache)" ] || ln -sf "$(command -v ccache)" "$links/$name"
    done
    case :$PATH: in
    *":$links:"*) ;;
    *) export PATH="$links:$PATH" ;;
    esac
    # llama.cpp puts ccache before the compiler where it sees no launcher, and ccache refuses to be
    # called twice. `env` starts its arguments and changes nothing.
    export CMAKE_C_COMPILER_LAUNCHER=env CMAKE_CXX_COMPILER_LAUNCHER=env
    export CCACHE_DIR="${CCACHE_DIR:-$(cache_dir)/ccache}" CCACHE_MAXSIZE="${CCACHE_MAXSIZE:-500M}"
    # The folder of the clone does not count, nor does the one that a compiler is started in.
    export CCACHE_BASEDIR="${CCACHE_BASEDIR:-$(pwd -P)}" CCACHE_NOHASHDIR=true
}

# Makes sure that everything the build needs is there, and sets the variables it reads.
ensure_tools() {
    local missing=() package
    # A service may run this without HOME; `~` asks the system then.
    : "${HOME:=$(cd ~ && pwd)}"
    export HOME
    check_rust
    while IFS= read -r package; do
        missing+=("$package")
    done < <(missing_packages)
    if [ ${#missing[@]} -gt 0 ] && can_install; then
        apt_install "${missing[@]}"
    fi
    if ! has_compiler; then
        if is_macos; then
            die "Apple's command line tools are missing" "run: xcode-select --install"
        fi
        die "a C++ compiler is missing" "$(instruction_for "${missing[@]}")"
    fi
    if ! have make; then
        die "make is missing" "$(instruction_for "${missing[@]}")"
    fi
    if ! has_pip; then
        die "Python 3 with pip is missing" "$(instruction_for "${missing[@]}")"
    fi
    if ! has_libclang; then
        use_libclang_wheel
    fi
    if ! has_cmake; then
        use_cmake_wheel
    fi
    use_ccache
    # libclang alone, as in the wheel, comes without them; GCC's do as well.
    if ! has_clang_headers; then
        BINDGEN_EXTRA_CLANG_ARGS="-isystem$(cc -print-file-name=include)"
        export BINDGEN_EXTRA_CLANG_ARGS
    fi
    if ! has_openblas; then
        warn "OpenBLAS is missing: models will run on MLX's reference BLAS, about 50 times slower" \
            "$(instruction_for libopenblas0-pthread); then run: cargo clean --release -p mlx-sys"
    fi
}
