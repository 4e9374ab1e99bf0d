"""Floating-point operations of a training step, counted from a model's own graph: its matrix products and convolutions.

step_flops.py     of a model, its loss included: what the rest of the package calls
walk.py           through the graph and the functions that it calls
operations.py     what one operation takes, which take nothing, and through which no gradient flows
function_graph.py the graph of a function as it was traced
constants.py      values known without computing: how often a loop runs

The forward pass is traced. What the backward pass takes follows from it: of a product of A and B as much again for the
gradient of A where A depends on a trained weight, and for that of B likewise (Chowdhery et al. 2022, arXiv 2204.02311,
appendix B: two operations a multiply-add, 2 N forward and 4 N backward for N weights). What is computed again in the
backward pass to save memory does not count.
"""
