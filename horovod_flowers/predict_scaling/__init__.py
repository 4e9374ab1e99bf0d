"""The command that predicts how a step scales: python -m horovod_flowers.predict_scaling.

options.py   what it takes
study.py     which runs a prediction starts from, and which it must not
answer.py    the predictions, the recommendation, and what they lack
output.py    table, JSON and CSV
picture.py   the picture
"""
