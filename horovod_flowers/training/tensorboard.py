"""TensorBoard logs of a run, where --tensorboard asks for them."""

from pathlib import Path

import tensorflow as tf

from horovod_flowers.runlog.records import EpochRecord
from horovod_flowers.runtime.files import writing

SCALARS = ("training_loss", "training_accuracy", "validation_loss", "validation_accuracy", "learning_rate")


class TensorBoardWriter:
    """Writes each epoch's figures. One rank has one."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        with writing(folder):
            self._writer = tf.summary.create_file_writer(str(folder))

    def write(self, record: EpochRecord) -> None:
        """Add one epoch. Raises StorageError."""
        with writing(self._folder), self._writer.as_default(step=record.epoch):
            for name in SCALARS:
                value = getattr(record, name)
                if value is not None:
                    tf.summary.scalar(name, value)
            measured = {"training": record.training_metrics, "validation": record.validation_metrics}
            for kind, metrics in measured.items():
                for name, value in metrics.items():
                    if value is not None:
                        tf.summary.scalar(f"{kind}_{name}", value)
            tf.summary.scalar("images_per_second", record.images / record.training_seconds)
            self._writer.flush()
