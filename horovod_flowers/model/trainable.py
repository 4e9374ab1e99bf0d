"""What of a user's model training would leave unused, or would do otherwise: refused, or said."""

from typing import Any

from horovod_flowers.model.keras_internals import all_layers
from horovod_flowers.runtime.errors import UserError

OWN_TRAINING = ("train_step", "compute_loss", "compute_metrics", "fit")
"""Methods of a Keras model that say how it is trained, none of which is called here."""


def check_trainable(name: str, model: Any) -> list[str]:
    """Notes on what is not used of a built model. Raises UserError where it would be trained otherwise than it says."""
    import keras

    if not model.trainable_variables:
        raise UserError(f"model {name} has no trainable weights: there is nothing to train")
    own = [method for method in OWN_TRAINING if getattr(type(model), method) is not getattr(keras.Model, method)]
    if own:
        raise UserError(
            f"model {name} has a {own[0]} of its own, which this command does not call (it trains by cross-entropy): "
            "leave it out, and put penalties into add_loss or regularizers"
        )
    _check_types(name, model)
    return _computed_in(name, model)


def _check_types(name: str, model: Any) -> None:
    """Weights in float32, whatever layers compute in: sums over ranks, optimizers and checkpoints keep that."""
    types = {str(variable.dtype) for variable in model.variables if "float" in str(variable.dtype)} - {"float32"}
    if types:
        raise UserError(
            f"model {name} keeps weights in {', '.join(sorted(types))}, and training keeps them in float32: use dtype "
            'float32, or "mixed_bfloat16" to compute in bfloat16'
        )
    if "float16" in compute_types(model):
        raise UserError(
            f"model {name} computes in float16 by its own dtype policy, without a scaled loss, where small gradients "
            'become 0: leave the policy out and give --precision fp16 (GPU) or bf16, or use "mixed_bfloat16"'
        )


def compute_types(model: Any) -> set[str]:
    """Number formats that the layers of a model compute in, such as float32."""
    return {str(layer.compute_dtype) for layer in all_layers(model) if getattr(layer, "compute_dtype", None)}


def _computed_in(name: str, model: Any) -> list[str]:
    others = sorted(compute_types(model) - {"float32"})
    return (
        [f"model {name} computes in {', '.join(others)} by its own dtype policy, whatever --precision says"]
        if others
        else []
    )
