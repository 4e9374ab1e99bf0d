"""Networks: the registry, and what makes any Keras model faster. They know nothing of ranks.

registry.py           Keras models by name, the user's own, and keras.applications
first_run.py          a model run once before it is trained, and what is told of one that does not take photos
outputs.py            what its outputs mean: logits, softmax, sigmoid; trainable.py: what of it would not be used
compiled.py           what a compiled model brings: optimizer, loss, metrics
loss.py               a loss for each image: cross-entropy, one of Keras' or the user's
metrics.py            a compiled model's metrics over all ranks
freezing.py           layers and weights that are not trained
weights.py            weights from a file
precision.py          bf16 or fp16, chosen from what the CPU or GPU can do
pooled_activation.py  ReLU moved behind max pooling
fused_optimizers.py   Adam and SGD with their update in one pass over memory
optimizer_class.py    an optimizer whose updates begin with something else, such as combining gradients over ranks
flops/                floating-point operations of a step, counted from a model's graph
keras_internals/      all that is used of Keras beyond its public interface
"""
