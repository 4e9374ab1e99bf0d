#!/usr/bin/env bash
# Strong scaling, the global batch fixed: the missing points of jobs/strong.yaml that fit on this machine, then the report.
# jobs/strong.sh [OPTION of python -m horovod_flowers.study...] [-- OPTION of train...]
set -euo pipefail
# shellcheck source=jobs/environment.sh
source "$(dirname -- "$(readlink -f -- "${BASH_SOURCE[0]}")")/environment.sh"

then_report python -m horovod_flowers.study "$project/jobs/strong.yaml" --fit "$@"
