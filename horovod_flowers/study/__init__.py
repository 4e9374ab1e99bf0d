"""Many runs from a job file: in random order, failures recorded, finished ones skipped.

__main__.py  the command
file.py      the job file
points.py    the points that it stands for, in their order
point.py     what each point runs, and whether it is there already
profiles.py  what emulated points sleep for, measured before them
script.py    the same of points that run a command of the user's own
"""
