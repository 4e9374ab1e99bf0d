"""Strategies, collective calls and peers, timed in turn.

__main__.py     the command
contenders.py   what is timed
table.py        medians, intervals and ratios
"""
