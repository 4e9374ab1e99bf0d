"""From photos to a table of what they show, over ranks.

photos.py    which photos
decoding.py  threads that decode, ahead of the model
patience.py  paths that never answer
parts.py     each rank its blocks, put together in the photos' order
tables.py    CSV, JSON lines, Parquet
"""
