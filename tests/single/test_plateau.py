"""The learning rate falls when the validation loss no longer does, as Keras' ReduceLROnPlateau has it."""

from typing import Any

import keras
import numpy as np
import pytest

from horovod_flowers.runlog.training_progress import BEGINNING, Plateau


def rates_of_keras(losses: list[float], patience: int, factor: float) -> list[float]:
    """The learning rate after each epoch, of a callback that starts from 1."""
    model: Any = keras.Sequential([keras.layers.Input((1,)), keras.layers.Dense(1)])
    model.compile(keras.optimizers.SGD(1.0), "mse")
    callback = keras.callbacks.ReduceLROnPlateau(monitor="val_loss", factor=factor, patience=patience)
    callback.set_model(model)
    callback.on_train_begin()
    found = []
    for epoch, loss in enumerate(losses):
        callback.on_epoch_end(epoch, {"val_loss": loss})
        found.append(float(model.optimizer.learning_rate))
    return found


@pytest.mark.parametrize("patience", [1, 2, 3])
def test_it_falls_as_keras_callback_does(patience: int) -> None:
    random = np.random.default_rng(patience)
    losses = [round(float(loss), 3) for loss in 2 / np.arange(1, 30) + random.normal(0, 0.05, 29)]
    losses += [losses[-1], losses[-1] - 5e-5, losses[-1] - 0.5, losses[-1]]
    plateau, found = Plateau(), []
    for epoch, loss in enumerate(losses, 1):
        plateau = plateau.after(epoch, loss, patience, 0.5)
        found.append(plateau.factor)
    expected = rates_of_keras(losses, patience, 0.5)
    assert found == pytest.approx(expected)
    assert found[-1] < 1


def test_accuracy_and_loss_have_each_their_best_epoch() -> None:
    progress = BEGINNING
    for accuracy, loss in [(0.5, 1.0), (0.6, 1.1), (0.6, 0.9), (0.4, 0.9)]:
        progress = progress.after_epoch(1, 1.0).evaluated(accuracy, loss)
    assert (progress.best_epoch, progress.best_loss_epoch, progress.best_validation_loss) == (2, 3, 0.9)
    assert (progress.epochs_without_progress("accuracy"), progress.epochs_without_progress("loss")) == (2, 1)
