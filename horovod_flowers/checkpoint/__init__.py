"""Checkpoints: what is in them, how they are written, which one a run goes on from.

format.py       the safetensors file, with a checksum; the last ones are kept
model_state.py  all that training changes, as whole tensors by name, under any strategy
manager.py      when checkpoints are written, and which is restored
writer.py       a thread that writes beside the training
"""
