"""From a source of photos to the batches that one rank trains on. Rank and world size are plain values here.

sources.py         the sources behind one interface (chunks.py): drawn flowers, folder_source.py, tfds_source.py
synthetic.py       flowers drawn from a seed; drawing/ has their parts
folder_layout.py   how a folder of photos is laid out; folder_scan.py: all that is in it; class_folders.py: what its
                   folders are; photo_names.py: what names say; labels_csv.py: labels and weights from a CSV
decoding.py        a photo decoded; photo_file.py: files from strangers, JPEG and PNG; photo_containers.py: WebP, GIF,
                   BMP and TIFF; photo_contents.py: what is left of them, and limits
prepared.py        decoded images in memory-mapped shards; preparing.py: making them, with progress;
                   moved_photos.py: finding them again after their photos have moved
opening.py         the prepared images of a run, opened on every rank
class_table.py     classes, how many images each has, and what is to be said of that
order.py           the split, and which image comes when on which rank
noise.py           images of noise, for steps whose time alone counts
image_weights.py   how much each training image counts in the loss
augment.py         flips, crops, colours: the same on any rank
batches.py         batches, read ahead by a thread
"""
