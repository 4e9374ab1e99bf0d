"""A strategy by name, for a built model."""

from typing import Any

from horovod_flowers.config.choices import DIVIDING, INDEPENDENT, Precision
from horovod_flowers.config.run import RunConfig
from horovod_flowers.data.order import per_rank_batch
from horovod_flowers.ranks.communicator import Ranks
from horovod_flowers.ranks.startup import fuses_tensors
from horovod_flowers.runtime.errors import UserError
from horovod_flowers.strategy.allreduce import Allreduce, Independent, OneRank
from horovod_flowers.strategy.communication_volume import DenseShape, factors_send_less
from horovod_flowers.strategy.interface import Strategy
from horovod_flowers.strategy.layout import Groups
from horovod_flowers.strategy.packing import MOST_BYTES
from horovod_flowers.strategy.sharded import Sharded
from horovod_flowers.strategy.tensor_parallel import TensorParallel
from horovod_flowers.strategy.wide_dense import dense_layers
from horovod_flowers.strategy.wide_dense_collectives import Exchange


def make_strategy(name: str, config: RunConfig, ranks: Ranks, precision: Precision, model: Any) -> Strategy:
    """The strategy of that name, ready to adopt this model.

    Raises UserError where the model has no layer to divide, or none of the name that the user gave.
    """
    if ranks.size == 1:
        return OneRank(Groups())
    strategy = _strategy(name, config, ranks, precision, model)
    if config.horovod.fusion_threshold_mb is None and not fuses_tensors():  # in its place, the same in every run
        strategy.packs_bytes = MOST_BYTES
    return strategy


def _strategy(name: str, config: RunConfig, ranks: Ranks, precision: Precision, model: Any) -> OneRank:
    group = {"tensor": ranks.size, "mesh": ranks.model_parallel_size}.get(name, 1)
    layers = layers_to_divide(config, model, group) if name in DIVIDING else []
    if name == INDEPENDENT:
        return Independent(Groups.of(ranks, ranks.size))
    bf16 = precision == "bf16"
    if name == "sharded":
        exchange = Exchange(ranks.size, ranks.rank, bf16)
        return Sharded(Groups.of(ranks, ranks.size), exchange, factored_layers(config, ranks, exchange, model, True))
    if group == 1:
        exchange = Exchange(ranks.size, ranks.rank, bf16)
        factored = factored_layers(config, ranks, exchange, model, False)
        groups, compression = Groups.of(ranks, ranks.size), config.compression
        return Allreduce(groups, exchange, factored=factored, compression=compression)
    exchange = Exchange(group, ranks.rank % group, bf16, ranks.members_set if group < ranks.size else None)
    return TensorParallel(name, Groups.of(ranks, group), exchange, layers, ranks.size // group, ranks.copies_set)


def layers_to_divide(config: RunConfig, model: Any, group: int) -> list[Any]:
    """The Dense layers that tensor and mesh divide: those that the user names, else the large ones (UserError)."""
    known = dense_layers(model)
    listed = ", ".join(f"{layer.name} ({_weights(layer):,} weights)" for layer in known) or "it has none"
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
                "--strategy allreduce or sharded, or name layers with --shard-layers"
            )
    for layer in found:
        if layer.kernel.shape[0] < group:
            raise UserError(
                f"Dense layer {layer.name} has {layer.kernel.shape[0]} inputs, too few to divide over {group} ranks: "
                "choose others with --shard-layers"
            )
    return found


def factored_layers(config: RunConfig, ranks: Ranks, exchange: Exchange, model: Any, rows_only: bool) -> list[Any]:
    """The Dense layers whose gradients travel as factors."""
    if config.dense_gradients == "reduced" or config.compression != "none" or config.accumulate > 1:
        return []
    large = [layer for layer in dense_layers(model) if _weights(layer) >= config.shard_above]
    large = [layer for layer in large if layer.kernel.shape[0] >= ranks.size]
    if config.dense_gradients == "factors":
        if not large:
            raise UserError(
                f"dense_gradients is 'factors' but the model has no Dense layer of at least {config.shard_above:,} "
                "weights: leave out --dense-gradients, or lower --shard-above"
            )
        return large
    images = per_rank_batch(config.global_batch_for(ranks.size), ranks.size)
    width = exchange.bytes_per_value
    return [
        layer
        for layer in large
        if _used_on_vectors(layer)
        and factors_send_less(DenseShape(*layer.kernel.shape), images, ranks.size, width, rows_only)
    ]


def _weights(layer: Any) -> int:
    inputs, units = layer.kernel.shape
    return int(inputs * units)


def _used_on_vectors(layer: Any) -> bool:
    """Whether its inputs are [images, inputs]: a layer that sees sequences has more factors than images."""
    try:
        return len(layer.input.shape) == 2
    except (AttributeError, ValueError):  # used several times, or in a subclassed model: unknown
        return False
