"""A training run: the engine that computes steps, the trainer that runs its logged epochs.

setup.py           how a run starts: name, precision, strategy, state, records; checks_before_mpi.py: what is refused
resume.py          what a resumed run starts from, and what must stay the same
recipe.py          loss, optimizer, learning rate and metrics, from the options or from a compiled model
model_file.py      a model from a file, kept in the run
initial_weights.py weights from a run, a checkpoint, an export or a file
engine.py          model, optimizer, strategy, batches: what computes; step.py: one training step, timed from inside
trainer.py         the epochs: evaluation, records, checkpoints, stopping; step_loop.py: the steps of one epoch
step_profile.py    measures a step on one rank: when each gradient is there
emulation.py       what an emulated run sleeps for; emulated_engine.py: the engine of such a run
step_times.py      what steps took, for the last lines of a run
penalties.py       what a model adds to its loss: the same over all ranks as on one
optimizer.py       Keras' optimizers, Adam and SGD in one pass over memory, clipping
learning_rate.py   scaling, warm-up, decay
weight_average.py  a running average of the weights; dropout_seeds.py: dropout that differs between ranks
health.py          NaN or infinite loss, weights that drift apart; replay.py: back to one step
console_log.py     what a run prints; tensorboard.py: what it writes for TensorBoard
elastic/           ranks that come and go; elastic_commits.py: what they continue from
"""
