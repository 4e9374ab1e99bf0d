"""Who looks at the weights of a model, and so which of them may be divided over ranks."""

from typing import Any

import keras
import pytest
from keras import constraints, layers, ops

from horovod_flowers.config.run import RunConfig
from horovod_flowers.runtime.errors import UserError
from horovod_flowers.strategy.choice import layers_to_divide, refuse_float8
from horovod_flowers.strategy.weight_use import WeightUse, image_inputs
from horovod_flowers.strategy.wide_dense import dense_layers

SIZE = 8


def reasons(model: Any) -> dict[str, str | None]:
    """Why each Dense layer is left to itself, and each other weight whole."""
    dense = dense_layers(model)
    use = WeightUse(model, image_inputs(SIZE, 2), dense)
    found = {layer.name: use.why_not_taken_over(layer) for layer in dense}
    kernels = {id(layer.kernel) for layer in dense}
    others = [variable for variable in model.trainable_variables if id(variable) not in kernels]
    return found | {variable.path: use.why_whole(variable) for variable in others if len(variable.shape) > 1}


def on_vectors(*following: Any) -> Any:
    return keras.Sequential([layers.Input((SIZE, SIZE, 3)), layers.Flatten(), *following])


class Assigning(layers.Layer):
    """Writes to its weight in its call: at once, in a branch, in a loop, or not at all."""

    def __init__(self, where: str) -> None:
        super().__init__()
        self.where = where

    def build(self, shape: Any) -> None:
        self.matrix = self.add_weight(shape=(shape[-1], 5), name="matrix")

    def compute_output_shape(self, shape: Any) -> Any:
        return (shape[0], 5)

    def call(self, inputs: Any) -> Any:
        def clipped() -> Any:
            self.matrix.assign(ops.clip(self.matrix, -1, 1))
            return ops.zeros(())

        def read() -> Any:
            return ops.sum(self.matrix)

        positive = ops.sum(inputs) > 0
        if self.where == "at once":
            clipped()
        elif self.where == "in a branch":
            ops.cond(positive, clipped, read)
        elif self.where == "in a loop":
            ops.while_loop(lambda turn: turn < 2, lambda turn: (clipped(), turn + 1)[1:], (0,))
        elif self.where == "read in a branch":
            ops.cond(positive, read, lambda: ops.zeros(()))
        return ops.matmul(inputs, self.matrix)


@pytest.mark.parametrize("where", ["at once", "in a branch", "in a loop"])
def test_a_weight_that_a_layer_assigns_stays_whole_wherever_it_does(where: str) -> None:
    (reason,) = reasons(on_vectors(Assigning(where))).values()
    assert reason == "assigned in a call"


def test_a_weight_that_is_only_read_may_be_divided() -> None:
    assert set(reasons(on_vectors(Assigning("nowhere"))).values()) == {None}
    assert set(reasons(on_vectors(Assigning("read in a branch"))).values()) == {None}
    sequences = [layers.Reshape((24, 8)), layers.LSTM(3), layers.RepeatVector(2), layers.GRU(3, unroll=True)]
    assert set(reasons(on_vectors(*sequences)).values()) == {None}


def test_constraints_and_wrappers_keep_weights_whole() -> None:
    constrained = layers.Dense(4, name="constrained", bias_constraint="non_neg")
    model = on_vectors(constrained, layers.SpectralNormalization(layers.Dense(4, name="wrapped")))
    constrained.kernel.constraint = constraints.MaxNorm(1)  # afterwards: the optimizer looks at the variable
    found = reasons(model)
    assert found["constrained"] == "constraint MaxNorm"
    assert found["wrapped"] == "assigned in a call"


def test_a_dense_layer_is_taken_over_only_where_it_alone_reads_its_kernel() -> None:
    class GoingBack(layers.Layer):
        def __init__(self, dense: Any) -> None:
            super().__init__()
            self.dense = dense

        def call(self, inputs: Any) -> Any:
            return ops.matmul(inputs, ops.transpose(self.dense.kernel))

    class Looping(layers.Layer):
        def __init__(self) -> None:
            super().__init__()
            self.dense = layers.Dense(4, name="looped")

        def call(self, inputs: Any) -> Any:
            return ops.vectorized_map(self.dense, ops.expand_dims(inputs, 1))[:, 0]

    first, twin = layers.Dense(4, name="first"), layers.Dense(4, name="twin")
    twin.build((None, 4))
    inputs = layers.Input((SIZE, SIZE, 3))
    tied = layers.Dense(4, name="tied")
    x = layers.Flatten()(inputs)
    x = Looping()(GoingBack(tied)(tied(x)))
    x = layers.Dense(4, name="plain")(first(x))
    first._tracker.unlock()
    first._kernel = twin._kernel  # shared
    model = keras.Model(inputs, twin(twin(x)))
    found = reasons(model)
    elsewhere = "its kernel is read elsewhere, too"
    assert found["plain"] is None
    assert found["tied"] == elsewhere
    assert found["looped"] == "called in a vectorised loop"
    assert elsewhere in (found["first"], found["twin"])


def test_layers_to_divide_are_listed_with_what_others_have_that_keeps_them_whole() -> None:
    adapted, quantized = layers.Dense(16, name="adapted"), layers.Dense(16, name="quantized")
    model = on_vectors(
        layers.Dense(16, name="constrained", kernel_constraint="unit_norm"),
        layers.Dense(16, name="penalised", kernel_regularizer="orthogonal_regularizer"),
        layers.Dense(16, name="short", dtype="mixed_bfloat16"),
        adapted,
        quantized,
        layers.SpectralNormalization(layers.Dense(16, name="wrapped")),
        layers.Dense(5, name="plain"),
    )
    adapted.enable_lora(2)
    quantized.quantize("int8")
    use = WeightUse(model, image_inputs(SIZE, 2), dense_layers(model))
    assert [layer.name for layer in layers_to_divide(RunConfig(shard_above=50), model, 2, use)] == ["plain"]
    whole = (
        "constrained (constraint UnitNorm), penalised (regularizer OrthogonalRegularizer), "
        "short (computes in bfloat16), adapted (adapted by LoRA), quantized (quantized to int8), "
        "wrapped (assigned in a call)"
    )
    for named in (None, "wrapped"):
        config = RunConfig(strategy="tensor", shard_above=100, shard_layers=named)
        with pytest.raises(UserError) as error:
            layers_to_divide(config, model, 2, use)
        assert f"plain (80 weights); to be left whole: {whole}" in str(error.value)


def test_float8_training_is_refused() -> None:
    model = on_vectors(layers.Dense(16, name="wide"))
    refuse_float8(model)
    model.quantize("float8")
    with pytest.raises(UserError, match="wide/.* belongs to a layer that is quantized to float8 in training"):
        refuse_float8(model)


def test_looking_changes_nothing() -> None:
    model = on_vectors(layers.Dense(4, name="looked_at"), layers.Dropout(0.5), layers.BatchNormalization())
    before = [ops.convert_to_numpy(variable).copy() for variable in model.variables]
    assert reasons(model)["looked_at"] is None
    assert all((ops.convert_to_numpy(v) == b).all() for v, b in zip(model.variables, before, strict=True))
    assert "call" not in vars(model.layers[1])
