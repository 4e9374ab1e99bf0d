"""Many runs from a job file: in random order, failures recorded, finished ones skipped.

__main__.py  the command
file.py      the job file, and the points that it stands for
point.py     what each point runs, and whether it is there already
"""
