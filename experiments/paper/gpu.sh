#!/usr/bin/env bash
# On a machine with a GPU and no pictures: install, train preset `paper` from a packed file, evaluate. Nothing is asked.
#   experiments/paper/gpu.sh patches.npz runs/gpu 8 [options of experiments.paper.travel, such as --peak-tflops 990]
# If PYTHON names an interpreter that has tinygan's dependencies, nothing is installed.
set -euo pipefail
pack=$(realpath "$1"); out=$(realpath -m "$2"); minutes=$3; shift 3
cd "$(dirname "$0")/../.."
if [ -z "${PYTHON:-}" ]; then
    test -x .venv/bin/python || python3 -m venv .venv
    .venv/bin/python -m pip install --quiet --disable-pip-version-check -e '.[judge]'
    PYTHON=.venv/bin/python
fi
exec "$PYTHON" -m experiments.paper.travel --pack "$pack" --out "$out" --minutes "$minutes" "$@"
