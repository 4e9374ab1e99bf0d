"""A model's double: it computes by sleeping, for as long as a step was measured to take on one rank.

timeline.py      what a measured step computes, part by part
virtual_core.py  a processor that sleeps
paced_graph.py   sleeping inside of a step's graph
shrunk.py        how much smaller its weights and activations are
model.py         the Keras model, and the optimizer
"""
