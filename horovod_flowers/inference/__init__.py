"""A trained run at work: prediction, evaluation, export.

trained_model.py  the model of a run, ready to classify
prediction/       photos to a table of classes, over ranks
evaluation/       what a model mixes up, and whether its probabilities are calibrated
export/           files for others, loaded back and compared
"""
