"""The runs in the formats that other tools read, written where --format asks for them.

write.py        which formats there are, and their files; exported.py: what one of them gives back
run_columns.py  the data dictionary: what is told of each run, once for every format
tidy.py         runs.csv, a row a run, and datapackage.json, which describes its columns
extra_p.py      measurements as JSON Lines for Extra-P
figures.py      'figure = value unit', a line a figure, for regular expressions
mlperf.py       MLPerf's log lines: time to an accuracy
hparams.py      TensorBoard's HParams

Emulated runs, ranks that shared cores and what speaks against a figure are told in each of them. What was not measured
is missing in each of them, never 0.
"""
