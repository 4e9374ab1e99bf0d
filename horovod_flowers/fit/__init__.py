"""A person's own Keras script on any number of ranks: `compile`, `fit`, `evaluate`, `predict` and `save` as ever.

start.py           the ranks of a script: MPI, cores, TensorFlow, Horovod; script.py: these ranks among themselves
roll_call.py       that all ranks make the same calls: one that ends, or calls something else, is named
options.py         what distribute takes beside the model
model.py           what a distributed model does otherwise than Keras: a class made at run time
state.py           what it knows of its ranks, and what they do before and after its steps
epochs.py          what they do at the end of an epoch, and where this one stands
refusals.py        what cannot work, told before anything is trained
agreement.py       that all ranks have the same model, optimizer and loss, and begin with the same values
penalties.py       what a model adds to its loss, such that all ranks apply what one applies
reductions.py      losses of which the mean over ranks is that of the global batch
sparse_gradients.py  gradients of embeddings, of which ranks gather the rows
step.py            one training step: gradients combined wherever the optimizer is applied
own_step.py        a train_step, or a loss, of the user's own, tried out
dense_gradients.py whether a step can take gradients of all ranks from its large Dense layers
division.py        weights and optimizer state divided over ranks within fit, and whole again outside of it
fitting.py         what fit, evaluate and predict are called with; agreed_steps.py: steps on batches that all ranks have
global_batches.py  this rank's part of every global batch, of any data that Keras takes
row_shares.py      which rows of a batch are a rank's, and what they count for; array_rows.py: of arrays
ordered_batches.py a PyDataset in one order for all ranks; same_data.py: whether the ranks were given the same data
place.py           where a fit stands; backup.py: BackupAndRestore on ranks; time_limit.py: an end before the end
metrics.py         metrics of all ranks' rows; callbacks.py: one decision for all ranks, files from rank 0
"""
