"""Models of runs written for others and loaded back; models of others, checked before they are loaded.

served.py      preprocessing around a model, and the files
load_back.py   an export compared with its run, through load_apart.py in another process
exported.py    what describes an export, and loading it; operations.py: what a stranger's SavedModel may do
"""
