"""The run log of somebody's own script, written from inside its `fit` when a study asks for it.

recorder.py    the files: begun with the first fit, a line a step, a line an epoch, the result
step_marks.py  when something of a step was there: marks in its graph
model_flops.py what a step takes in floating-point operations
of_fit.py      what has to be around a model's fit, and around its train_step

Without the variable FLOWERS_RECORD, which a study sets, nothing here does anything.
"""
