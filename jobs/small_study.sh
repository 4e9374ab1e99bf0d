#!/usr/bin/env bash
# A small strong-scaling study on this machine: one rank, two ranks, then the report on all runs so far.
# Options go to both runs: jobs/small_study.sh --data.source tf_flowers --epochs 10
set -euo pipefail

job=$(dirname -- "$(readlink -f -- "${BASH_SOURCE[0]}")")/small_study.yaml

step() { printf '\n== %s\n' "$*"; }
# On a machine of one core the two share it, and their run is marked.
train() {
  python -m horovod_flowers.launcher --launcher "$1" --ranks "$2" --oversubscribe -- \
    python -m horovod_flowers.train --config "$job" "${@:3}"
}

step "one rank"
train mpirun 1 "$@"

step "two ranks (horovodrun looks at the machine for some seconds first)"
train horovodrun 2 "$@"

step "report"
python -m horovod_flowers.report
