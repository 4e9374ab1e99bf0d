#!/usr/bin/env bash
# Parallel inference:  jobs/predict.sh RANKS PHOTOS... --run runs/NAME [OPTION of python -m horovod_flowers.predict...]
set -euo pipefail
# shellcheck source=jobs/environment.sh
source "$(dirname -- "$(readlink -f -- "${BASH_SOURCE[0]}")")/environment.sh"

ranks=${1:?usage: jobs/predict.sh RANKS PHOTOS... --run runs/NAME}
launch() { python -m horovod_flowers.launcher --ranks "$ranks" -- python -m "$@"; }

launch horovod_flowers.preflight
launch horovod_flowers.predict "${@:2}"
