"""A trained run at work: the model, prediction, evaluation, export."""
