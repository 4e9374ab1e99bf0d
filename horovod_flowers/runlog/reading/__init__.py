"""Finished runs, read back from their records and checked: what contradicts itself is refused.

folders.py  every run of some folders, and why others are left out
run.py      one run
config.py   its options
steps.py    its step records, as arrays
"""
