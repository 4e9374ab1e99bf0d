"""What collective calls cost on these ranks: config.py holds the options, timing.py the timed loops.

The command is microbenchmark.py, the record runlog/collectives.py, the model report/analysis/cost_model.py.
"""
