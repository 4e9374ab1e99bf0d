#!/usr/bin/env bash
# A small strong-scaling study on this machine: one rank, two ranks, then the report on all runs so far.
# Options go to both runs: jobs/small_study.sh --data.source tf_flowers --epochs 10
set -euo pipefail

job=$(dirname -- "$(readlink -f -- "${BASH_SOURCE[0]}")")/small_study.yaml

# TensorFlow's notices, which horovodrun's own probes print too, would bury the result.
export TF_CPP_MIN_LOG_LEVEL=${TF_CPP_MIN_LOG_LEVEL:-3}

step() { printf '\n== %s\n' "$*"; }

step "one rank"
mpirun -np 1 --bind-to none python -m horovod_flowers.train --config "$job" "$@"

step "two ranks (horovodrun looks at the machine for some seconds first)"
horovodrun -np 2 python -m horovod_flowers.train --config "$job" "$@"

step "report"
python -m horovod_flowers.report
