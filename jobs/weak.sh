#!/usr/bin/env bash
# Weak scaling, the batch per rank fixed: the missing points of jobs/weak.yaml that fit on this machine, then the report.
# jobs/weak.sh [OPTION of python -m horovod_flowers.study...] [-- OPTION of train...]
set -euo pipefail
# shellcheck source=jobs/environment.sh
source "$(dirname -- "$(readlink -f -- "${BASH_SOURCE[0]}")")/environment.sh"

then_report python -m horovod_flowers.study "$project/jobs/weak.yaml" --fit "$@"
