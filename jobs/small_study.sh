#!/usr/bin/env bash
# A small strong-scaling study on this machine: one rank, two ranks, then the report on all runs so far.
# Options go to both runs: jobs/small_study.sh --data.source tf_flowers --epochs 10
set -euo pipefail

job=$(dirname -- "$(readlink -f -- "${BASH_SOURCE[0]}")")/small_study.yaml

# On a machine with one core, two ranks share it and their run is marked.
export FLOWERS_OVERSUBSCRIBE=1
step() { printf '\n== %s\n' "$*"; }
on_ranks() { python -m horovod_flowers.launcher --ranks "$1" -- python -m "$2" --config "$job" "${@:3}"; }

step "preflight: is this machine ready?"
on_ranks 2 horovod_flowers.preflight "$@"

step "one rank"
on_ranks 1 horovod_flowers.train "$@"

step "two ranks"
on_ranks 2 horovod_flowers.train "$@"

step "report"
python -m horovod_flowers.report
