#!/usr/bin/env bash
# A whole study as a chain of jobs: prepare the images here, on the login node; submit every point that is missing, as
# job arrays of just the nodes that it needs; and the report, which waits for them.
#     slurm/submit.sh [JOB FILE...] [-- OPTION of train...]      default: jobs/strong.yaml and jobs/weak.yaml
set -euo pipefail
here=$(dirname -- "$(readlink -f -- "${BASH_SOURCE[0]}")")
# shellcheck source=jobs/environment.sh
source "$here/../jobs/environment.sh"

files=() options=() data=()
while (($#)) && [[ $1 != -- ]]; do files+=("$(readlink -f -- "$1")") && shift; done
((${#files[@]})) || files=("$project/jobs/strong.yaml" "$project/jobs/weak.yaml")
if (($#)); then options=("$@"); fi
for ((i = 1; i < ${#options[@]}; i++)); do # prepare takes the --data options alone
  if [[ ${options[i]} == --data.*=* ]]; then data+=("${options[i]}"); fi
  if [[ ${options[i]} == --data.* && ${options[i]} != *=* ]]; then data+=("${options[i]}" "${options[i + 1]}"); fi
done

# First, since it reports mistakes.
points=$(python -m horovod_flowers.study "${files[@]}" --list "${options[@]}" | awk -F '\t' '$4 != "finished"')
python -m horovod_flowers.prepare "${data[@]}"
jobs=()
# The largest first: where it asks for more than there is, nothing has been submitted yet.
mapfile -t sizes < <(cut -f 2 <<<"$points" | sort -rnu | grep .)
for ranks in "${sizes[@]}"; do
  numbers=$(awk -F '\t' -v ranks="$ranks" '$2 == ranks { print $1 }' <<<"$points" | paste -sd ,)
  a_node=${FLOWERS_TASKS_PER_NODE:-2}
  ((ranks >= a_node)) || a_node=$ranks
  job=$(sbatch --parsable --array="$numbers" --nodes=$(((ranks + a_node - 1) / a_node)) --ntasks="$ranks" \
    --ntasks-per-node="$a_node" "$here/array.sbatch" "${files[@]}" "${options[@]}")
  say "job ${job%%;*}: $ranks rank(s), points $numbers"
  jobs+=("${job%%;*}")
done
((${#jobs[@]})) || say "every point is finished"
dependency=$(IFS=: && echo "${jobs[*]}")
say "job $(sbatch --parsable ${dependency:+--dependency=afterany:$dependency} "$here/report.sbatch"): the report"
