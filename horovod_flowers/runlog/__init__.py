"""The record of a run: its types, its files, and reading it back. No TensorFlow here.

records.py            every record; field_types.py: ranges of numbers; training_progress.py: how far a run is
run_folder.py         the folder of a run, and how it is made; script_folder.py: that of a script's run
run_hold.py           one job at a time in a folder; holder.py: who that is, lock_file.py: the file that says so
json_lines.py         writing and checking records; older_schemas.py: those of earlier versions
record_file.py        a record that is a file by itself, with a schema of its own
environment.py        what a run runs on, gathered from its ranks
step_spread.py        means beside medians of steps, and a sentence where they part
model_flops.py        the record of floating-point operations of a step
machine_peak.py       the record of what a machine computes at most
collectives.py        the record of timed collective calls
step_profile.py       the record of a step measured on one rank; emulated_step.py: what a run slept for
emulation.py          what was emulated, and the gauge by which its times count
resources.py          what a run took of the machine; process_resources.py: measured on a rank
study_attempts.py     what became of each point of a study
reading/              finished runs, read back and checked
"""
