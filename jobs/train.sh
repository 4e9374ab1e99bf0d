#!/usr/bin/env bash
# One training run:  jobs/train.sh RANKS [OPTION of python -m horovod_flowers.train...]
# FLOWERS_LAUNCHER=horovodrun, FLOWERS_HOSTS=n1:2,n2:2 and FLOWERS_OVERSUBSCRIBE=1 change how ranks are started.
set -euo pipefail
# shellcheck source=jobs/environment.sh
source "$(dirname -- "$(readlink -f -- "${BASH_SOURCE[0]}")")/environment.sh"

ranks=${1:?usage: jobs/train.sh RANKS [OPTION...]}
launch() { python -m horovod_flowers.launcher --ranks "$ranks" -- python -m "$@"; }

launch horovod_flowers.preflight "${@:2}"
launch horovod_flowers.train "${@:2}"
