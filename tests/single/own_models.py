"""Models as people write them, most of which are not what training takes without a look: function(image_size, classes).

`RIGHT` give what the same network with logits gives; `REFUSED` cannot be trained, each with what its refusal says.
"""

from typing import Any

import keras
import numpy as np
from keras import layers

INSTANCE = keras.Sequential([layers.Input((8, 8, 3)), layers.Flatten(), layers.Dense(5)])
NUMBER = 3


def body(image_size: int, *last: Any) -> Any:
    """A small network and its last layers, with weights that only their order decides."""
    first = [layers.Input((image_size, image_size, 3)), layers.Rescaling(1 / 255), layers.Conv2D(8, 3, 2)]
    model = keras.Sequential([*first, layers.Activation("relu"), layers.GlobalAveragePooling2D(), *last])
    return with_weights(model)


def with_weights(model: Any) -> Any:
    """A model that is built, with the same weights whatever was drawn before it."""
    random = np.random.default_rng(5)
    for variable in model.trainable_variables:
        variable.assign(random.normal(size=variable.shape, scale=0.3))
    return model


def logits(image_size: int, classes: int) -> Any:
    return body(image_size, layers.Dense(classes))


def softmax(image_size: int, classes: int) -> Any:
    return body(image_size, layers.Dense(classes, activation="softmax"))


def softmax_activation(image_size: int, classes: int) -> Any:
    return body(image_size, layers.Dense(classes), layers.Activation("softmax"))


def softmax_layer(image_size: int, classes: int) -> Any:
    return body(image_size, layers.Dense(classes), layers.Softmax())


def softmax_operation(image_size: int, classes: int) -> Any:
    model = logits(image_size, classes)
    return keras.Model(model.inputs, keras.ops.softmax(model.outputs[0]))


def softmax_penalised(image_size: int, classes: int) -> Any:
    """With a penalty of probabilities, which would be another one of logits."""
    return body(image_size, layers.Dense(classes, activation="softmax", activity_regularizer="l2"))


def softmax_nested(image_size: int, classes: int) -> Any:
    inner = softmax(image_size, classes)
    inputs = layers.Input((image_size, image_size, 3))
    return keras.Model(inputs, inner(inputs))


class Own(keras.Model):
    """A network in its own code."""

    def __init__(self, network: Any, activation: str) -> None:
        super().__init__()
        self.network, self.activation = network, keras.activations.get(activation)

    def call(self, images: Any) -> Any:
        return self.activation(self.network(images))


def subclassed(image_size: int, classes: int) -> Any:
    """Not built: nobody has called it yet."""
    return Own(logits(image_size, classes), "linear")


def softmax_subclassed(image_size: int, classes: int) -> Any:
    """Called once, as people do to build it."""
    model = Own(logits(image_size, classes), "softmax")
    model(np.zeros((1, image_size, image_size, 3), np.float32))
    return model


def log_softmax(image_size: int, classes: int) -> Any:
    return body(image_size, layers.Dense(classes, activation="log_softmax"))


def not_built(image_size: int, classes: int) -> Any:
    """A Sequential model without Input, whose layers have their weights all the same."""
    built = logits(image_size, classes)
    return keras.Sequential(built.layers)


RIGHT = [softmax, softmax_activation, softmax_layer, softmax_operation, softmax_penalised, softmax_nested]
RIGHT += [subclassed, softmax_subclassed, log_softmax, not_built]


def logit_unit(image_size: int, classes: int) -> Any:
    return body(image_size, layers.Dense(1))


def sigmoid_unit(image_size: int, classes: int) -> Any:
    return body(image_size, layers.Dense(1, activation="sigmoid"))


def sigmoid_unit_subclassed(image_size: int, classes: int) -> Any:
    return Own(logit_unit(image_size, classes), "sigmoid")


def sigmoid_unit_of_a_layer(image_size: int, classes: int) -> Any:
    return body(image_size, layers.Dense(1), layers.Activation("sigmoid", activity_regularizer="l2"))


class Scaled(layers.Layer):
    """A frozen temperature and a gain that is trained, both scalars."""

    def build(self, shape: Any) -> None:
        self.gain = self.add_weight(shape=(), initializer="ones", name="gain")
        self.temperature = self.add_weight(shape=(), initializer="ones", trainable=False, name="temperature")

    def call(self, values: Any) -> Any:
        return values * self.gain / self.temperature


def scalars(image_size: int, classes: int) -> Any:
    return body(image_size, Scaled(), layers.Dense(classes))


def compiled(image_size: int, classes: int) -> Any:
    model = logits(image_size, classes)
    model.compile("sgd", "mse", metrics=["mae"])
    return model


def mixed_bfloat16(image_size: int, classes: int) -> Any:
    keep = {"dtype": "mixed_bfloat16"}
    inner = [layers.Input((image_size, image_size, 3)), layers.Rescaling(1 / 255), layers.Conv2D(8, 3, 2, **keep)]
    inner += [layers.Activation("relu", **keep), layers.GlobalAveragePooling2D(**keep)]
    return keras.Sequential([*inner, layers.Dense(classes, activation="softmax", **keep)])


# What cannot be trained.


def fixed(image_size: int, classes: int) -> Any:
    return keras.Sequential([layers.Input((24, 24, 3)), layers.Flatten(), layers.Dense(classes)])


def fixed_without_input(image_size: int, classes: int) -> Any:
    """Built for one size by a call."""
    model = keras.Sequential([layers.Flatten(), layers.Dense(classes)])
    model(np.zeros((1, 24, 24, 3), np.float32))
    return model


def channels_first(image_size: int, classes: int) -> Any:
    return keras.Sequential([layers.Input((3, image_size, image_size)), layers.Flatten(), layers.Dense(classes)])


def grey(image_size: int, classes: int) -> Any:
    return keras.Sequential([layers.Input((image_size, image_size, 1)), layers.Flatten(), layers.Dense(classes)])


def two_inputs(image_size: int, classes: int) -> Any:
    first, second = layers.Input((image_size, image_size, 3)), layers.Input((4,))
    together = layers.Concatenate()([layers.Flatten()(first), second])
    return keras.Model([first, second], layers.Dense(classes)(together))


def dictionary(image_size: int, classes: int) -> Any:
    model = logits(image_size, classes)
    return keras.Model(model.inputs, {"species": model.outputs[0]})


def two_outputs(image_size: int, classes: int) -> Any:
    model = logits(image_size, classes)
    return keras.Model(model.inputs, [model.outputs[0], model.outputs[0]])


def one_unit(image_size: int, classes: int) -> Any:
    return logit_unit(image_size, classes)


def thousand(image_size: int, classes: int) -> Any:
    return logits(image_size, 1000)


def a_map(image_size: int, classes: int) -> Any:
    return keras.Sequential([layers.Input((image_size, image_size, 3)), layers.Conv2D(classes, 3)])


def chosen(image_size: int, classes: int) -> Any:
    model = logits(image_size, classes)
    return keras.Model(model.inputs, keras.ops.argmax(model.outputs[0], axis=-1))


def sigmoids(image_size: int, classes: int) -> Any:
    return body(image_size, layers.Dense(classes, activation="sigmoid"))


def bfloat16(image_size: int, classes: int) -> Any:
    return keras.Sequential(
        [layers.Input((image_size, image_size, 3)), layers.Flatten(), layers.Dense(classes, dtype="bfloat16")]
    )


def float64(image_size: int, classes: int) -> Any:
    return keras.Sequential(
        [layers.Input((image_size, image_size, 3)), layers.Flatten(), layers.Dense(classes, dtype="float64")]
    )


def mixed_float16(image_size: int, classes: int) -> Any:
    return body(image_size, layers.Dense(classes, dtype="mixed_float16"))


class OwnStep(keras.Sequential):
    def train_step(self, data: Any) -> Any:
        return {}


def own_step(image_size: int, classes: int) -> Any:
    return OwnStep(logits(image_size, classes).layers)


def frozen(image_size: int, classes: int) -> Any:
    model = logits(image_size, classes)
    model.trainable = False
    return model


def other_names(size: int, n: int) -> Any:
    return logits(size, n)


class Net(keras.Model):
    def __init__(self, units: int) -> None:
        super().__init__()


def nothing(image_size: int, classes: int) -> Any:
    logits(image_size, classes)


WRITE = "write a function, def build(image_size, classes)"
REFUSED = {
    "fixed": "does not take images of 32x32 pixels in 3 channels: it is made for 24x24: "
    "build it with Input((image_size, image_size, 3)), or train with --data.image-size 24",
    "fixed_without_input": "does not take images of 32x32 pixels in 3 channels: it is made for 24x24",
    "channels_first": "it has channels first: build it with Input((image_size, image_size, 3)) and data_format",
    "grey": "it takes 1 channel(s), and photos are RGB: build it with Input((image_size, image_size, 3)), and convert",
    "two_inputs": "does not take images of 32x32 pixels in 3 channels (Layer * expects 2 input(s), but it received*)",
    "dictionary": "gives a dictionary of outputs (species): it must give one tensor of shape (batch, 5)",
    "two_outputs": "gives 2 outputs: it must give one tensor of shape (batch, 5)*keras.Model(inputs, the one output",
    "one_unit": "gives outputs of shape (batch, 1), and the photos have 5 classes: end it in Dense(classes)",
    "thousand": "gives outputs of shape (batch, 1000), and the photos have 5 classes: end it in Dense(classes)",
    "a_map": "gives outputs of shape ('batch', 30, 30, 5): *; end it in Flatten() or GlobalAveragePooling2D()",
    "chosen": "gives outputs of shape ('batch',): *without argmax",
    "sigmoids": "ends in a sigmoid for each class*: end it in Dense(classes) without activation, or with softmax",
    "bfloat16": 'keeps weights in bfloat16, and training keeps them in float32: use dtype float32, or "mixed_bfloat16"',
    "float64": "keeps weights in float64, and training keeps them in float32",
    "mixed_float16": "computes in float16 by its own dtype policy, without a scaled loss",
    "own_step": "has a train_step of its own, which this command does not call",
    "frozen": "has no trainable weights: there is nothing to train",
    "other_names": f"is a function that takes (size: int, n: int)*image_size= and classes=*: {WRITE}",
    "Net": f"is a class that takes (units: int)*image_size= and classes=*: {WRITE}",
    "nothing": f"gives nothing, no Keras model: {WRITE}",
    "NUMBER": f"is a value of type int, no function: {WRITE}",
}
