"""Networks: the registry, and what makes any Keras model faster. They know nothing of ranks.

registry.py           Keras models by name, the user's own, and keras.applications
precision.py          bf16 or fp16, chosen from what the CPU or GPU can do
pooled_activation.py  ReLU moved behind max pooling
keras_internals.py    all that is used of Keras beyond its public interface
"""
