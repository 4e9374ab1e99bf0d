# shellcheck shell=bash
# Sourced by every job script, here and in slurm/: the site's settings, and a Python that has horovod_flowers.
# Leaves $project, the folder of the project, wherever the job was submitted from.

project=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.." && pwd)

say() { printf '%s %s\n' "$(date '+%F %T')" "$*"; }

# Run a study, then the report on whatever is there, failed points or not; the status is the study's.
then_report() {
  local status=0
  "$@" || status=$?
  if ((status <= 1)); then python -m horovod_flowers.report || say "no report: no run has finished"; fi
  return "$status"
}

has_flowers() {
  python -c 'import sys; from importlib.util import find_spec as find
sys.exit(not (find("horovod") and find("horovod_flowers")))' 2>/dev/null
}

set +u # neither module commands nor activation scripts are written for it
if [[ -r ${FLOWERS_SITE:-$project/slurm/site.sh} ]]; then
  # shellcheck source=slurm/site.example.sh
  source "${FLOWERS_SITE:-$project/slurm/site.sh}"
fi
if ! has_flowers && [[ -r $project/.venv/bin/activate ]]; then
  # shellcheck source=/dev/null
  source "$project/.venv/bin/activate"
fi
set -u
if ! has_flowers; then
  say "no Python with horovod and horovod_flowers on $(hostname): activate the environment in slurm/site.sh" >&2
  exit 2
fi
