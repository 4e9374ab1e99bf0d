"""Runs, read back from their records and checked: what contradicts itself becomes no figure. No TensorFlow here.

folders.py   every run of some folders, one at a time, and why others are left out
run.py       one run                    options.py   its config.yaml
steps.py     its step records, into arrays
"""
