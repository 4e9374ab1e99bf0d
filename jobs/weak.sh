#!/usr/bin/env bash
# Weak scaling, each rank's batch fixed: the points of jobs/weak.yaml that fit on this machine and are missing, then the report.
# jobs/weak.sh [OPTION of python -m horovod_flowers.study...] [-- OPTION of train...]
set -euo pipefail
# shellcheck source=jobs/environment.sh
source "$(dirname -- "$(readlink -f -- "${BASH_SOURCE[0]}")")/environment.sh"

status=0
python -m horovod_flowers.study "$project/jobs/weak.yaml" --fit "$@" || status=$?
if ((status <= 1)); then python -m horovod_flowers.report; fi
exit "$status"
