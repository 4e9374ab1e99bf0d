"""How a step scales: predicted from measured computing, measured calls, and the calls that a strategy makes.

step_tasks.py       what a step consists of: computing and collective calls, and what waits for what
network.py          latency and bandwidth, given or of a named kind
algorithms.py       collective algorithms as rounds of messages; open_mpi.py: which of them the MPI library takes
call_model.py       what calls cost; calibration.py: fitted to measured ones; linear_cost.py: by size alone
measured_steps.py   the work, the ways to divide it, and what runs of it took
computing.py        what a rank computes, by its rows
division.py         how a setting divides a step; steps.py: the tasks of a profiled step
schedule.py         the step on two resources: when each task runs, and what of the communication is hidden
exposure.py         communication fitted to whole steps, where no calls were measured
stragglers.py       waiting for the slowest rank
prediction.py       a step's seconds at N ranks, with an interval
hold_out.py         each measured number of ranks predicted from the smaller ones
recommendation.py   which strategy on how many ranks, in one sentence
simgrid/            a second engine: SimGrid replays the messages, over topologies that formulas do not know

No TensorFlow here. docs/scaling-model.md has the formulas, their sources and their limits.
"""
