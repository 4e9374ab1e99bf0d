"""What collective calls cost on these ranks, and what they compute at most.

timing.py  the timed loops
peak.py    and large matrix products: what the ranks compute at most
config.py  the options of the microbenchmark

The command is microbenchmark.py, the records runlog/collectives.py and runlog/machine_peak.py, the model of the calls
scaling_model/calibration.py.
"""
