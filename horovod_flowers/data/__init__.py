"""From a source of photos to the batches that one rank trains on. Rank and world size are plain values here.

sources.py     synthetic flowers, tf_flowers, folders of photos; photo_file.py: files from strangers
synthetic.py   flowers drawn from a seed; drawing/ has their parts
prepared.py    decoded images in memory-mapped shards; preparing.py: making them, with progress
opening.py     the prepared images of a run, opened on every rank
order.py       the split, and which image comes when on which rank
augment.py     flips, crops, colours: the same on any rank
batches.py     batches, read ahead by a thread
"""
