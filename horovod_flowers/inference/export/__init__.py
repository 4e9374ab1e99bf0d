"""Models of runs, written for others and loaded back; and what comes from others, looked at before it is loaded.

served (preprocessing around a model) -> load_back (compared with the run, through load_apart in another process);
exported (back into this suite), operations (what a stranger's SavedModel may do).
"""
