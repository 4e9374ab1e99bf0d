"""Larger numbers of ranks, predicted from a study's runs (scaling_model/): for the command and the report's section.

options.py   what may be asked
study.py     which runs a prediction starts from, and which it must not
answer.py    the predictions, the recommendation, and what they lack
"""
