"""The pictures of a report.

picture.py            a figure, drawn once and kept as SVG and PNG; all_pictures.py: all that a report can show
layout.py             panels side by side, or one below the other for a phone
legend.py             a legend that leaves the axes their room
lettering.py          names in any script: fonts that have their letters, or a transliteration
scaling.py            speed-up and efficiency by ranks; predicted.py: of larger numbers of ranks than were measured
drift.py              throughput of each run over its start
efficiency_losses.py  parts of a step, and the waterfall from ideal to measured efficiency
collectives.py        cost of collective calls by size
rank_times.py         times of each rank, and a timeline
learning.py           accuracy and loss by epoch and by time
confusion.py          confusion matrices; calibration.py: reliability diagrams; mistakes.py: the worst mistakes
"""
