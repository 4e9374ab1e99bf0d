"""Checkpoints: their format, who writes them, when, and what of a model and optimizer is in them."""
