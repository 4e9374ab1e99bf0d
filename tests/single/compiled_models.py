"""Models that are compiled, as people compile them: function(image_size, classes), with weights that are the same at
every start. `REFUSED` cannot be trained as they are compiled, each with what its refusal says."""

from typing import Any

import keras
import numpy as np
import tensorflow as tf
from keras import layers, losses, metrics, optimizers

from tests.single.own_models import with_weights


def network(image_size: int, units: int, activation: str | None = None, width: int = 96) -> Any:
    """A small network with a Dense layer that strategies divide."""
    return with_weights(
        keras.Sequential(
            [
                layers.Input((image_size, image_size, 3)),
                layers.Rescaling(1 / 255),
                layers.AveragePooling2D(4),
                layers.Flatten(name="flat"),
                layers.Dense(width, activation="tanh", name="wide"),
                layers.Dense(units, activation=activation, name="head"),
            ]
        )
    )


def compiled(model: Any, *arguments: Any, **options: Any) -> Any:
    model.compile(*arguments, **options)
    return model


SPARSE = "sparse_categorical_crossentropy"


def clipped(image_size: int, classes: int) -> Any:
    """Softmax, integer labels, momentum, one norm for all gradients, and metrics that Keras chooses by the labels."""
    optimizer = optimizers.SGD(0.02, momentum=0.9, nesterov=True, global_clipnorm=0.05)
    accuracies = ["accuracy", metrics.SparseTopKCategoricalAccuracy(2, name="top2")]
    return compiled(network(image_size, classes, "softmax"), optimizer, SPARSE, metrics=accuracies)


def scheduled(image_size: int, classes: int) -> Any:
    """Smoothed one-hot labels, a schedule that falls every second update, decay but for the head's weights."""
    rate = optimizers.schedules.PiecewiseConstantDecay([2, 4], [0.01, 0.005, 0.001])
    optimizer = optimizers.AdamW(rate, weight_decay=0.1)
    optimizer.exclude_from_weight_decay(var_names=["bias"])
    loss = losses.CategoricalCrossentropy(from_logits=True, label_smoothing=0.1)
    measured = [metrics.CategoricalAccuracy(name="hits"), metrics.AUC(from_logits=True, name="auc")]
    return compiled(network(image_size, classes), optimizer, loss, metrics=measured)


class Halving(optimizers.schedules.LearningRateSchedule):
    """A schedule of one's own, without a configuration."""

    def __call__(self, step: Any) -> Any:
        return 0.02 * 0.5 ** tf.cast(step, tf.float32)


class Signs(optimizers.SGD):
    """An optimizer of one's own, which moves by the signs of gradients."""

    def __init__(self, *arguments: Any, share: float = 1.0, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.share = share

    def update_step(self, gradient: Any, variable: Any, learning_rate: Any) -> None:
        rate = tf.cast(learning_rate, variable.dtype) * self.share
        self.assign_sub(variable, rate * (tf.sign(gradient) + tf.cast(gradient, variable.dtype)))

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "share": self.share}


def weighted_squares(truth: Any, outputs: Any) -> Any:
    """Of each image, with more weight for the first class: one-hot labels."""
    counts = 1 + tf.cast(truth[:, 0], tf.float32)
    return counts * tf.reduce_sum(tf.square(truth - outputs), axis=-1)


def own_parts(image_size: int, classes: int) -> Any:
    """Optimizer, schedule and loss of one's own, a weight for the loss."""
    model = network(image_size, classes, "softmax")
    return compiled(model, Signs(Halving(), share=0.5), weighted_squares, loss_weights=0.5)


def mean_of_batch(truth: Any, outputs: Any) -> Any:
    """One number for a batch, of integer labels."""
    return tf.reduce_mean(losses.sparse_categorical_crossentropy(truth, outputs, from_logits=True))


def one_number(image_size: int, classes: int) -> Any:
    return compiled(network(image_size, classes), optimizers.RMSprop(0.002, rho=0.5, clipvalue=0.01), mean_of_batch)


def sum_of_batch(truth: Any, outputs: Any) -> Any:
    return tf.reduce_sum(tf.square(truth - outputs))


def one_sum(image_size: int, classes: int) -> Any:
    """The same as `added_up` with a loss of one's own."""
    return compiled(network(image_size, classes, "softmax"), optimizers.SGD(0.001), sum_of_batch)


def added_up(image_size: int, classes: int) -> Any:
    """The sum over the images of a batch instead of their mean."""
    loss = losses.MeanSquaredError(reduction="sum")
    model = network(image_size, classes, "softmax")
    return compiled(model, optimizers.SGD(0.001 * classes), loss, metrics=[metrics.RootMeanSquaredError()])


def focal(image_size: int, classes: int) -> Any:
    """Classes of different weights in the loss, F1 of each class, and a metric that weighs images."""
    weights = np.linspace(0.2, 1, classes).tolist()
    loss = losses.CategoricalFocalCrossentropy(alpha=weights, gamma=1.5)
    measured = [metrics.F1Score(average=None, name="f1")]
    return compiled(
        network(image_size, classes, "softmax"),
        optimizers.Nadam(0.003, clipnorm=0.02),
        loss,
        metrics=measured,
        weighted_metrics=[metrics.CategoricalAccuracy(name="weighted")],
    )


def unit(image_size: int, classes: int) -> Any:
    """One sigmoid for two classes."""
    measured = ["accuracy", metrics.Precision(name="precision"), metrics.AUC(name="auc")]
    model = network(image_size, 1, "sigmoid")
    return compiled(model, optimizers.Adagrad(0.01), losses.BinaryCrossentropy(label_smoothing=0.1), metrics=measured)


def unit_of_logits(image_size: int, classes: int) -> Any:
    return compiled(network(image_size, 1), optimizers.Lion(0.001), losses.BinaryCrossentropy(from_logits=True))


def by_name(image_size: int, classes: int) -> Any:
    """By names alone."""
    return compiled(network(image_size, classes, "softmax"), "adamax", "crossentropy", metrics=["acc"])


def averaged(image_size: int, classes: int) -> Any:
    """An average of the weights, which takes their place every other update."""
    optimizer = optimizers.Adam(0.005, use_ema=True, ema_momentum=0.6, ema_overwrite_frequency=2)
    return compiled(network(image_size, classes, "softmax"), optimizer, SPARSE)


def without_loss(image_size: int, classes: int) -> Any:
    return compiled(network(image_size, classes), "sgd")


def whole_weights(image_size: int, classes: int) -> Any:
    loss = losses.SparseCategoricalCrossentropy(from_logits=True)
    return compiled(network(image_size, classes), optimizers.Lamb(0.01), loss)


def wider(image_size: int, classes: int, width: int, activation: str = "softmax") -> Any:
    """With arguments of its own."""
    return network(image_size, classes, activation, width)


INSTANCE = compiled(network(32, 5, "softmax"), optimizers.SGD(0.02), SPARSE, metrics=["accuracy"])

# What cannot be trained as it is compiled.


def logits_as_probabilities(image_size: int, classes: int) -> Any:
    return compiled(network(image_size, classes), "sgd", SPARSE)


def probabilities_as_logits(image_size: int, classes: int) -> Any:
    loss = losses.SparseCategoricalCrossentropy(from_logits=True)
    return compiled(network(image_size, classes, "softmax"), "sgd", loss)


def sigmoid_as_logits(image_size: int, classes: int) -> Any:
    return compiled(network(image_size, 1, "sigmoid"), "sgd", losses.BinaryCrossentropy(from_logits=True))


def categories_of_a_unit(image_size: int, classes: int) -> Any:
    return compiled(network(image_size, 1, "sigmoid"), "sgd", "categorical_crossentropy")


def divergence_of_logits(image_size: int, classes: int) -> Any:
    return compiled(network(image_size, classes), "sgd", "kl_divergence")


def whole_batch(image_size: int, classes: int) -> Any:
    return compiled(network(image_size, classes, "softmax"), "sgd", losses.Dice())


def variance(truth: Any, outputs: Any) -> Any:
    return tf.math.reduce_variance(outputs[:, 0]) + tf.reduce_mean(tf.square(truth - outputs))


def compares_images(image_size: int, classes: int) -> Any:
    return compiled(network(image_size, classes, "softmax"), "sgd", variance)


def wants_the_wrong_class(image_size: int, classes: int) -> Any:
    def loss(truth: Any, outputs: Any) -> Any:
        return tf.reduce_sum(truth * outputs, axis=-1)

    return compiled(network(image_size, classes, "softmax"), "sgd", loss)


def without_a_class(image_size: int, classes: int) -> Any:
    loss = losses.SparseCategoricalCrossentropy(ignore_class=0)
    return compiled(network(image_size, classes, "softmax"), "sgd", loss)


def two_losses(image_size: int, classes: int) -> Any:
    return compiled(network(image_size, classes, "softmax"), "sgd", ["mse", "mae"])


def no_reduction(image_size: int, classes: int) -> Any:
    return compiled(network(image_size, classes, "softmax"), "sgd", losses.MeanSquaredError(reduction=None))


def accumulated(image_size: int, classes: int) -> Any:
    optimizer = optimizers.Adam(gradient_accumulation_steps=4)
    return compiled(network(image_size, classes, "softmax"), optimizer, SPARSE)


def scaled(image_size: int, classes: int) -> Any:
    return compiled(network(image_size, classes, "softmax"), optimizers.LossScaleOptimizer(optimizers.SGD()), SPARSE)


def rate_by_function(image_size: int, classes: int) -> Any:
    return compiled(network(image_size, classes, "softmax"), optimizers.SGD(lambda: 0.1), SPARSE)


class Forgetful(optimizers.SGD):
    def __init__(self, factor: float) -> None:
        super().__init__(0.1 * factor)


def no_config(image_size: int, classes: int) -> Any:
    return compiled(network(image_size, classes, "softmax"), Forgetful(2.0), SPARSE)


class LastBatch(metrics.Metric):
    """The mean of the last batch only."""

    def __init__(self) -> None:
        super().__init__(name="last")
        self.value = self.add_variable((), "zeros", name="value")

    def update_state(self, truth: Any, outputs: Any, sample_weight: Any = None) -> None:
        self.value.assign(tf.reduce_mean(outputs[:, 0]))

    def result(self) -> Any:
        return self.value


def no_sums(image_size: int, classes: int) -> Any:
    return compiled(network(image_size, classes, "softmax"), "sgd", SPARSE, metrics=[LastBatch()])


REFUSED = {
    "logits_as_probabilities": "the loss sparse_categorical_crossentropy, which is told from_logits=False and takes "
    "probabilities, and gives logits, which would train something else*: compile it with from_logits=True",
    "probabilities_as_logits": "which is told from_logits=True and takes logits, and gives probabilities by softmax",
    "divergence_of_logits": "the loss kl_divergence, which takes probabilities, and gives logits: end it in softmax",
    "whole_batch": "the loss dice, which compares the images of a batch with each other*: compile it with Dice(",
    "compares_images": "the loss variance, which gives no loss for each image*: write one that compares no images",
    "wants_the_wrong_class": "the loss loss,*it is not lowest where the right class is predicted",
    "without_a_class": "which leaves out class 0, so that it divides by other numbers of images on each rank",
    "two_losses": "2 losses, and it has one output: compile it with one loss, or give --loss",
    "no_reduction": "a loss of reduction None: leave the reduction out, or give --loss",
    "accumulated": "gradients added up over steps: give --accumulate, and leave gradient_accumulation_steps out",
    "scaled": "the optimizer LossScaleOptimizer, which scales the loss: compile it with the optimizer inside",
    "rate_by_function": "a function for a learning rate: give it a keras.optimizers.schedules.LearningRateSchedule",
    "no_config": "the optimizer Forgetful, a class with arguments of its own: write its get_config",
    "no_sums": "metric last of the compiled model keeps more than sums over images, which cannot be added up",
}
REFUSED_OF_TWO_CLASSES = {
    "sigmoid_as_logits": "told from_logits=True and takes logits, and gives one probability for two classes",
    "categories_of_a_unit": "the loss categorical_crossentropy, which compares the outputs of classes, and gives one "
    "probability for two classes: compile it with binary_crossentropy",
}
