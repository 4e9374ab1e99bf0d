"""From photos to a table of what they show, over ranks.

photos (which ones) -> decoding (threads) -> parts (each rank its blocks) -> tables (one file, in the photos' order).
"""
