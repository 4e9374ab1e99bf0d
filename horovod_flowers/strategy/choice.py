"""A strategy by name, for a built model."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

from horovod_flowers.config.choices import DIVIDING, INDEPENDENT, Precision
from horovod_flowers.config.run import RunConfig
from horovod_flowers.data.order import per_rank_batch
from horovod_flowers.ranks.communicator import Ranks
from horovod_flowers.ranks.startup import fuses_tensors
from horovod_flowers.runtime.errors import UserError
from horovod_flowers.strategy.allreduce import Allreduce, Independent, OneRank
from horovod_flowers.strategy.batch_statistics import BatchStatistics
from horovod_flowers.strategy.call_contents import MOST_BYTES, SMALLEST_DIVIDED
from horovod_flowers.strategy.communication_volume import DenseShape, factors_send_less
from horovod_flowers.strategy.interface import Strategy
from horovod_flowers.strategy.layer_collectives import Exchange
from horovod_flowers.strategy.layout import Groups
from horovod_flowers.strategy.sharded import Sharded
from horovod_flowers.strategy.tensor_parallel import TensorParallel
from horovod_flowers.strategy.weight_use import WeightUse, image_inputs
from horovod_flowers.strategy.wide_dense import all_dense_layers, dense_layers, why_not_plain

WhyNotInStep: TypeAlias = Callable[[Sequence[Any]], Mapping[int, str]]
"""Some Dense layers -> why the training step cannot take gradients of all ranks from them: by their identities, for
those of which it cannot, in a few words."""


def in_any_step(layers: Sequence[Any]) -> Mapping[int, str]:
    """As WhyNotInStep, of a step that differentiates its loss and updates weights, and does nothing else."""
    return {}


def make_strategy(
    name: str, config: RunConfig, ranks: Ranks, precision: Precision, model: Any, image_size: int
) -> Strategy:
    """The strategy of that name, ready to adopt this model of images of [image_size, image_size, 3].

    Raises UserError as `strategy_for` does.
    """
    rows = per_rank_batch(config.global_batch_for(ranks.size), ranks.size)
    return strategy_for(name, config, ranks, precision, model, image_inputs(image_size, rows), rows)


def strategy_for(
    name: str,
    config: RunConfig,
    ranks: Ranks,
    precision: Precision,
    model: Any,
    inputs: Any,
    rows: int,
    shrink: float = 1.0,
    why_not_in_step: WhyNotInStep = in_any_step,
) -> OneRank:
    """The strategy of that name, ready to adopt this model.

    inputs: what a rank calls the model with in a step, a tf.TensorSpec or a structure of them; rows: of each, in the
    largest batch of a rank; shrink: by how much the model's weights are smaller than those that they stand for, and so
    what else is counted in elements.

    Raises UserError where the model has no layer to divide, or none of the name that the user gave, or one that several
    ranks, or this suite, cannot train.
    """
    refuse_float8(model)
    if ranks.size == 1:
        return OneRank(Groups())
    strategy = _divided_strategy(name, config, ranks, precision, model, inputs, rows, shrink, why_not_in_step)
    if strategy.trains_one_model:
        strategy.statistics = BatchStatistics(model, ranks.size, ranks.rank, strategy.timer)
        strategy.notes += strategy.statistics.notes
    if config.horovod.fusion_threshold_mb is None and not fuses_tensors():  # in its place, the same in every run
        strategy.packs_bytes = round(MOST_BYTES / shrink)
    return strategy


def _divided_strategy(
    name: str,
    config: RunConfig,
    ranks: Ranks,
    precision: Precision,
    model: Any,
    inputs: Any,
    rows: int,
    shrink: float,
    why_not_in_step: WhyNotInStep,
) -> OneRank:
    def use_of_weights() -> WeightUse:
        return WeightUse(model, inputs, dense_layers(model))

    group = {"tensor": ranks.size, "mesh": ranks.model_parallel_size}.get(name, 1)
    layers = layers_to_divide(config, model, group, use_of_weights()) if name in DIVIDING else []
    if name == INDEPENDENT:
        return Independent(Groups.of(ranks, ranks.size))
    bf16 = precision == "bf16"
    if name == "sharded":
        exchange, use = Exchange(ranks.size, ranks.rank, bf16), use_of_weights()
        factored, notes = factored_layers(config, ranks, exchange, model, rows, True, lambda: use, why_not_in_step)
        least = SMALLEST_DIVIDED / shrink
        sharded = Sharded(Groups.of(ranks, ranks.size), exchange, use.why_whole, factored, least)
        sharded.notes += notes
        return sharded
    if group == 1:
        exchange = Exchange(ranks.size, ranks.rank, bf16)
        factored, notes = factored_layers(config, ranks, exchange, model, rows, False, use_of_weights, why_not_in_step)
        groups, compression = Groups.of(ranks, ranks.size), config.compression
        allreduce = Allreduce(groups, exchange, factored=factored, compression=compression)
        allreduce.notes += notes
        return allreduce
    exchange = Exchange(group, ranks.rank % group, bf16, ranks.members_set if group < ranks.size else None)
    return TensorParallel(name, Groups.of(ranks, group), exchange, layers, ranks.size // group, ranks.copies_set)


def refuse_float8(model: Any) -> None:
    """Refuse layers that training quantizes to float8 (UserError): the gradients of their scales are no gradients but
    the next scales, which can be neither averaged over ranks, nor added up over steps, nor clipped."""
    scales = [variable for variable in model.trainable_variables if variable.overwrite_with_gradient]
    if scales:
        raise UserError(
            f"{scales[0].path} belongs to a layer that is quantized to float8 in training, which is not supported: "
            "build the model without quantize('float8'), and use --precision to compute in less than fp32"
        )


def layers_to_divide(config: RunConfig, model: Any, group: int, use: WeightUse) -> list[Any]:
    """The Dense layers that tensor and mesh divide: those that the user names, else the large ones (UserError)."""
    reasons = {layer.name: why_not_plain(layer) for layer in all_dense_layers(model)}
    reasons |= {layer.name: use.why_not_taken_over(layer) for layer in dense_layers(model)}
    known = [layer for layer in dense_layers(model) if reasons[layer.name] is None]
    listed = ", ".join(f"{layer.name} ({_weights(layer):,} weights)" for layer in known) or "it has none"
    whole = ", ".join(f"{name} ({reason})" for name, reason in reasons.items() if reason is not None)
    listed += f"; to be left whole: {whole}" if whole else ""
    if config.shard_layers is not None:
        asked = [name.strip() for name in config.shard_layers.split(",")]
        for name in asked:
            if all(layer.name != name for layer in known):
                raise UserError(f"shard_layers names {name!r}: Dense layers of the model that can be divided: {listed}")
        found = [layer for layer in known if layer.name in asked]
    else:
        found = [layer for layer in known if _weights(layer) >= config.shard_above]
        if not found:
            raise UserError(
                f"the model has no Dense layer of at least {config.shard_above:,} weights to divide ({listed}): use "
                "strategy allreduce or sharded, or name layers with shard_layers"
            )
    for layer in found:
        if layer.kernel.shape[0] < group:
            raise UserError(
                f"Dense layer {layer.name} has {layer.kernel.shape[0]} inputs, too few to divide over {group} ranks: "
                "choose others with shard_layers"
            )
    return found


def factored_layers(
    config: RunConfig,
    ranks: Ranks,
    exchange: Exchange,
    model: Any,
    rows: int,
    rows_only: bool,
    use_of_weights: Callable[[], WeightUse],
    why_not_in_step: WhyNotInStep,
) -> tuple[list[Any], list[str]]:
    """The Dense layers whose gradients travel as factors, and for the log why those of others do not that would send
    less. `use_of_weights` and `why_not_in_step` are asked where there is one that may."""
    if config.dense_gradients == "reduced" or config.compression != "none" or config.accumulate > 1:
        return [], []
    large = [layer for layer in dense_layers(model) if _weights(layer) >= config.shard_above]
    large = [layer for layer in large if layer.kernel.shape[0] >= ranks.size]
    if config.dense_gradients == "auto":
        width = exchange.bytes_per_value
        large = [
            layer
            for layer in large
            if _used_on_vectors(layer)
            and factors_send_less(DenseShape(*layer.kernel.shape), rows, ranks.size, width, rows_only)
        ]
    reasons: dict[int, str] = {}
    if large:
        use = use_of_weights()
        found = {id(layer): use.why_not_taken_over(layer) for layer in large}
        reasons = {key: reason for key, reason in found.items() if reason is not None}
    if left := [layer for layer in large if id(layer) not in reasons]:
        reasons |= why_not_in_step(left)
    told = [f"{layer.name} ({reasons[id(layer)]})" for layer in large if id(layer) in reasons]
    large = [layer for layer in large if id(layer) not in reasons]
    if config.dense_gradients == "factors" and not large:
        others = f" (unlike {', '.join(told)})" if told else ""
        raise UserError(
            f"dense_gradients is 'factors' but the model has no Dense layer of at least {config.shard_above:,} weights "
            f"that can be taken over{others}: leave out --dense-gradients, or lower --shard-above"
        )
    return large, [f"gradient reduced, not by factors: {', '.join(told)}"] if told else []


def _weights(layer: Any) -> int:
    inputs, units = layer.kernel.shape
    return int(inputs * units)


def _used_on_vectors(layer: Any) -> bool:
    """Whether its inputs are [images, inputs]: a layer that sees sequences has more factors than images."""
    try:
        return len(layer.input.shape) == 2
    except (AttributeError, ValueError):  # used several times, or in a subclassed model: unknown
        return False
