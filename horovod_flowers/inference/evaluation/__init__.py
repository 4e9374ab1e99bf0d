"""What a model's predictions are worth.

images.py   which images are evaluated
record.py   the files of an evaluation
summary.py  an evaluation in a terminal
"""
