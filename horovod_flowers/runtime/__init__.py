"""One process and its machine: errors, exit status, files, console, heartbeat. Knows nothing of runs or ranks.

errors.py     what a user can put right, and a job that was asked to end
exit.py       how a command ends: one sentence from one rank, and the exit status
files.py      files and folders that appear whole or not at all
standard_streams.py  standard output and error that are closed or full
console.py    progress bars for a terminal, plain lines for a log
temporary_space.py  room for temporary files on this node
heartbeat.py  what the main thread is doing, for the stall watch
machine.py    CPU, time of day, command line
parent_death.py  a process that does not outlive its parent
"""
