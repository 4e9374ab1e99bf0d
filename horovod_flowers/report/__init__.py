"""From run folders to a report that can be defended. `python -m horovod_flowers.report`; no TensorFlow anywhere in it.

options.py     what the command takes                 run_summary.py  one run, reduced to what figures need
factors.py     what varied, what was held             points.py       runs of one kind, and their baseline
intervals.py   95 % intervals by bootstrap over runs  laws.py         Karp-Flatt, Amdahl, Gustafson, USL
losses.py      where each lost percent went           bounds.py       ceiling and cost models beside measurements
rank_times.py  stragglers, percentiles, timelines     learning.py     accuracy beside speed
claims.py      before and after, proposal, --compare and --check
provenance.py  what the figures rest on               content.py      all of it, as plain values (scaling.json)
pictures/, templates/, terminal.py, written.py        how it is shown
"""
