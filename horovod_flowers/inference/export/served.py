"""A trained model with its preprocessing inside, as Keras and as TensorFlow take it.

Images are resized as `data.sources.decode_photo` resizes photos: bilinear, averaging where they shrink, without keeping
proportions. Values are not rounded in between, so pixels differ from prepared ones by up to one level of 255 (by a few
where a photo is at least four times as large as the model's images, which Pillow shrinks in two steps).
"""

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from horovod_flowers.inference.export.exported import CLASS_NAMES, IMAGES, PHOTOS


def with_preprocessing(model: Any, image_size: int) -> Any:
    """Wrap a model of logits: pixels 0..255 [n, h, w, 3] of any height and width to probabilities [n, classes]."""
    import keras

    # In fp32 whatever policy the model's own code has set.
    images = keras.Input((None, None, 3), name="images", dtype="float32")
    resizing = keras.layers.Resizing(
        image_size,
        image_size,
        interpolation="bilinear",
        antialias=True,
        data_format="channels_last",
        name=f"resize_to_{image_size}",
        dtype="float32",
    )
    softmax = keras.layers.Softmax(name="softmax_of_logits", dtype="float32")
    return keras.Model(images, softmax(model(resizing(images))), name="flowers")


def write_saved_model(whole: Any, image_size: int, class_names: Sequence[str], folder: Path) -> None:
    """Write what `with_preprocessing` gives as a SavedModel with three signatures.

    serving_default: `images`, float32 [n, h, w, 3] of pixels 0..255; photos: `photos`, [n] JPEG or PNG files as
    strings; both to `probabilities` [n, classes] and `class_name` [n]. class_names: nothing to `class_names` [classes].
    """
    import tensorflow as tf

    names = tf.constant(list(class_names))

    def answer(images: Any) -> dict[str, Any]:
        probabilities = whole(images, training=False)
        return {"probabilities": probabilities, "class_name": tf.gather(names, tf.argmax(probabilities, axis=1))}

    def read(photo: Any) -> Any:
        upright = tf.cast(decode_upright(photo), tf.float32)
        return tf.image.resize(upright, (image_size, image_size), "bilinear", antialias=True)

    def answer_photos(photos: Any) -> dict[str, Any]:
        row = tf.TensorSpec((image_size, image_size, 3), tf.float32)
        return answer(tf.map_fn(read, photos, fn_output_signature=row))

    served = tf.Module()
    # TensorFlow's variables behind the Keras ones: the SavedModel knows nothing of Keras.
    served.variables_of_model = [variable.value for variable in whole.variables]
    traced = partial(tf.function, autograph=False)  # as in training; AutoGraph leaves files in TMPDIR when it is killed
    served.images = traced(answer, input_signature=[tf.TensorSpec((None, None, None, 3), tf.float32, "images")])
    served.photos = traced(answer_photos, input_signature=[tf.TensorSpec((None,), tf.string, "photos")])
    served.class_names = traced(lambda: {"class_names": names}, input_signature=[])
    tf.saved_model.save(
        served, str(folder), signatures={IMAGES: served.images, PHOTOS: served.photos, CLASS_NAMES: served.class_names}
    )


def decode_upright(photo: Any) -> Any:
    """One JPEG or PNG file, a string tensor, to uint8 [h, w, 3] RGB, upright by a JPEG's EXIF tag."""
    import tensorflow as tf

    # Reads PNG too. The accurate transform is the one that Pillow takes.
    pixels = tf.io.decode_jpeg(photo, channels=3, dct_method="INTEGER_ACCURATE")
    orientation = _exif_orientation(photo)
    pixels = tf.cond(orientation >= 5, lambda: tf.transpose(pixels, (1, 0, 2)), lambda: pixels)
    for axis, mirrored in ((1, (2, 3, 6, 7)), (0, (3, 4, 7, 8))):
        flip = tf.reduce_any(orientation == tf.constant(mirrored))
        pixels = tf.cond(flip, lambda axis=axis, held=pixels: tf.reverse(held, (axis,)), lambda held=pixels: held)
    return tf.ensure_shape(pixels, (None, None, 3))


def _exif_orientation(photo: Any) -> Any:
    """1 to 8, as EXIF numbers them (CIPA DC-008, tag 0x0112 of the first directory); 1 where a file says nothing."""
    import tensorflow as tf

    # The segment is the first of a file where there is one, and has at most 64 KiB. Zeros to read on behind the end.
    head = tf.cast(tf.io.decode_raw(tf.strings.substr(photo, 0, 2**16 + 64), tf.uint8), tf.int32)
    head = tf.pad(head, ((0, 64),))
    begins = tf.ones_like(head[:-5], tf.bool)
    for offset, byte in enumerate(b"Exif\0\0"):
        begins &= head[offset : tf.size(head) - 5 + offset] == byte
    start = tf.cast(tf.argmax(begins), tf.int32) + 6
    little_endian = head[start] == ord("I")

    def byte_at(place: Any) -> Any:
        return tf.gather(head, tf.clip_by_value(start + place, 0, tf.size(head) - 1))

    def number_at(place: Any) -> Any:
        first, second = byte_at(place), byte_at(place + 1)
        return tf.where(little_endian, first + 256 * second, 256 * first + second)

    # The directory's place has 32 bits, of which 16 can be within the segment.
    directory = number_at(tf.where(little_endian, 4, 6))
    entries = directory + 2 + 12 * tf.range(tf.minimum(number_at(directory), 512))
    found = tf.boolean_mask(number_at(entries + 8), number_at(entries) == 0x0112)
    orientation = tf.concat((found, [1]), 0)[0]
    known = tf.reduce_any(begins) & (orientation >= 1) & (orientation <= 8)
    return tf.where(known, orientation, 1)
