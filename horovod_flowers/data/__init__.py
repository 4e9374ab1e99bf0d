"""From a source of photos to the batches that one rank trains on.

sources -> prepared (memory-mapped store) -> order (split, epochs, ranks) -> batches (prefetched, augmented).
Knows rank and world size as plain values only.
"""
