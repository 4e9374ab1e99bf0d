# shellcheck shell=bash
# Sourced by every *.sbatch here: the environment, and a way to run commands that can be stopped and requeued.

# shellcheck source=jobs/environment.sh
source "$(dirname -- "${BASH_SOURCE[0]}")/../jobs/environment.sh"
: "${MAX_RESTARTS:=10}"

# When the time limit is near or the job is pre-empted (USR1 or TERM to this script): remember it, and pass it on to what
# runs. Its ranks finish their step, write a checkpoint and end with status 75. Then the job is requeued.
asked='' child=''
asked_to_stop() {
  asked=$1
  if [[ -n $child ]]; then kill -USR1 "$child" 2>/dev/null || true; fi
}
trap 'asked_to_stop USR1' USR1
trap 'asked_to_stop TERM' TERM

say "job $SLURM_JOB_ID on $SLURM_JOB_NODELIST, restart ${SLURM_RESTART_COUNT:-0} of at most $MAX_RESTARTS"

# Run a command that can be asked to stop; none once the job has been asked, such as while the preflight ended.
stoppable() {
  local status=0
  if [[ -n $asked ]]; then
    say "asked to stop ($asked) before $*"
    requeue
  fi
  "$@" &
  child=$!
  if [[ -n $asked ]]; then kill -USR1 "$child" 2>/dev/null || true; fi # asked while it was started
  while :; do                                                            # wait returns early when a signal comes
    wait "$child" && status=0 || status=$?
    kill -0 "$child" 2>/dev/null || break
  done
  child=''
  if [[ -n $asked ]]; then say "asked to stop ($asked): ended with status $status"; fi
  # 128 and more: the signal came before there was anything to save.
  if ((status == 75)) || [[ -n $asked && $status -ge 128 ]]; then requeue; fi
  return "$status"
}

# The same command, started on every rank of the job.
on_ranks() {
  stoppable python -m horovod_flowers.launcher --ranks "$SLURM_NTASKS" -- python -m "$@"
}

# Requeue the job, unless it was cancelled or has been requeued often enough.
requeue() {
  local state
  state=$(squeue --noheader --jobs "$SLURM_JOB_ID" --format %T)
  if [[ $state != RUNNING ]]; then
    say "the job is $state: not requeued"
  elif ((${SLURM_RESTART_COUNT:-0} >= MAX_RESTARTS)); then
    say "restarted $MAX_RESTARTS times, which is all that MAX_RESTARTS allows: not requeued; resubmit it to continue"
  else
    say "requeueing the job"
    scontrol requeue "$SLURM_JOB_ID" && sleep 60 # Slurm ends this script
    say "the job could not be requeued: resubmit it to continue"
  fi
  exit 75
}
