"""The report's arithmetic: from recorded runs to numbers. It shows nothing.

run_summary.py        one run, reduced to what the numbers need
run_factors.py        what each run was made with: which runs may be compared
points.py             runs of one kind, their baseline, speed-up and parallel efficiency
intervals.py          95 % intervals by bootstrap over runs
laws.py               Karp-Flatt, Amdahl, Gustafson, Universal Scalability Law
efficiency_losses.py  what each lost percent of efficiency went to
bounds.py             what communication costs, by measurement and by model; call_costs.py: one for each kind of call
scaling_inputs.py     what a prediction of scaling starts from (scaling_model/), and what it makes of larger ranks
doubts.py             what speaks against taking a point's figures at their word: its times; run_doubts.py: how its runs
                      were made; absent_runs.py: which are missing; baseline_doubts.py: what they are compared with
drift.py              whether the machine drifted while a study ran
findings.py           what was asked first: the best, the largest loss, how far, the one next thing
allocation.py         nodes, cores, wall time, memory of a run; proposal_table.py: the table that proposals need
pop.py                POP's efficiency hierarchy
utilisation.py        percent of the measured peak, and the bound that the peak is
rank_times.py         slow ranks, percentiles, timelines
learning.py           accuracy beside speed
evaluation.py         evaluated runs; classification.py: accuracy, confusion, calibration
claims.py             before and after, proposals, --compare and --check
provenance.py         what the numbers rest on
repeat_commands.py    the commands that make runs again
"""
