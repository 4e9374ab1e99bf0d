"""What collective calls cost on these ranks.

timing.py  the timed loops
config.py  the options of the microbenchmark

The command is microbenchmark.py, the record runlog/collectives.py, the model scaling_model/calibration.py.
"""
