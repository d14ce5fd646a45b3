#!/usr/bin/env bash
# What a GPU makes of geoseg, measured on a bare machine without network.
#
#   tests/benchmarks/gpu.sh fetch            here: download wheels to build/wheels
#   tests/benchmarks/gpu.sh run [OPTIONS]    on a machine with CUDA, Python 3.12, torch and pip
#   tests/benchmarks/gpu.sh rehearse         here: the same measurements, tiny, on the CPU
#
# `fetch` puts the wheels into numbered folders of at most 40 MB, which can travel one by one. `run`
# makes an environment beside that of torch, runs tests/gpu, then gpu_inference.py, to which it passes
# OPTIONS. Results: gpu.json, gpu.txt and tests.txt in the folder OUT, by default build/gpu. WHEELS is
# the folder of the wheels; WITHOUT, packages that need not travel because the machine has them;
# LIMIT, seconds for gpu_inference.py.
set -euo pipefail
cd "$(dirname "$0")/../.."
WHEELS=${WHEELS:-build/wheels}
OUT=${OUT:-build/gpu}
WITHOUT=${WITHOUT:-numpy pandas pillow}

fetch() {
    local platforms=() version
    for version in 17 24 27 28 31 34; do platforms+=(--platform "manylinux_2_${version}_x86_64"); done
    platforms+=(--platform manylinux2014_x86_64)
    # Everything that geoseg needs but torch.
    local needs
    needs=$(python3 - <<'PY'
import tomllib
project = tomllib.load(open("pyproject.toml", "rb"))["project"]
print("\n".join(each for each in project["dependencies"] if not each.startswith("torch")))
PY
)
    rm -rf "$WHEELS"
    mkdir -p "$WHEELS"
    printf '%s\nsetuptools>=77\npytest>=8\npyyaml>=6\ndistributed\n' "$needs" > "$WHEELS/needs.txt"
    python3 -m pip download --quiet --dest "$WHEELS" --only-binary=:all: --python-version 3.12 \
        --implementation cp "${platforms[@]}" --requirement "$WHEELS/needs.txt"
    for name in $WITHOUT; do rm -f "$WHEELS/$name"-*.whl; done
    rm "$WHEELS/needs.txt"
    local wheel folder=1 size total=0
    for wheel in "$WHEELS"/*.whl; do
        size=$(wc -c < "$wheel")
        total=$((total + size))
        if ((total > 40000000)); then folder=$((folder + 1)) total=$size; fi
        mkdir -p "$WHEELS/$folder"
        mv "$wheel" "$WHEELS/$folder/"
    done
    du -sh "$WHEELS"/*
}

install() {
    local python=$1 beside links=() folder
    for folder in "$WHEELS"/*/; do links+=(--find-links "$folder"); done
    python3 -m venv --without-pip build/gpu-venv
    # The environment sees the packages of the one that has torch.
    beside=$(python3 -c 'import pathlib, torch; print(pathlib.Path(torch.__file__).parents[1])')
    echo "$beside" > "$("$python" -c 'import site; print(site.getsitepackages()[0])')/torch.pth"
    python3 -m pip --python "$python" install --quiet --no-index "${links[@]}" ".[cluster]" pytest
}

measure() {
    local python=$1
    shift
    mkdir -p "$OUT"
    timeout 90 "$python" -m pytest tests/gpu -p no:cacheprovider 2>&1 | tee "$OUT/tests.txt" || true
    timeout "${LIMIT:-270}" "$python" -u tests/benchmarks/gpu_inference.py --out "$OUT/gpu.json" "$@" 2>&1 |
        tee "$OUT/gpu.txt"
}

case "${1:-}" in
    fetch) fetch ;;
    run)
        shift
        install build/gpu-venv/bin/python
        measure build/gpu-venv/bin/python "$@"
        ;;
    rehearse) shift && measure "${PYTHON:-python3}" --rehearse "$@" ;;
    *) sed -n '2,13s/^# \{0,1\}//p' "$0" && exit 2 ;;
esac
