"""A run that sleeps for what a step was measured to take: what it stands for, and the engine of its steps.

The strategies, the run log and all that comes after them are those of any run; the model is its double (double/).
"""

import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from horovod_flowers.config.choices import DIVIDING, INDEPENDENT, Precision
from horovod_flowers.config.emulated_network import emulated_network
from horovod_flowers.config.options import Effect, flag_of, flat_options, names_of, options_of
from horovod_flowers.config.run import RunConfig
from horovod_flowers.data.noise import noise_images
from horovod_flowers.data.order import Split, per_rank_batch, validation_range
from horovod_flowers.data.prepared import Prepared
from horovod_flowers.runlog.emulated_step import EmulatedStep
from horovod_flowers.runlog.step_profile import ProfiledBatch, ProfiledDense, StepProfile, read_step_profile
from horovod_flowers.runtime.errors import UserError

MEASURE = "python -m horovod_flowers.step_profile"
INTER_OP_THREADS = 8
"""Of TensorFlow on each rank: sleeping parts of a step hold one each, and few are ready at once."""


@dataclass(frozen=True)
class Emulation:
    """What an emulated run stands for."""

    profile: StepProfile
    batch: ProfiledBatch
    shrink: float
    path: str

    @property
    def precision(self) -> Precision:
        """That the step was measured in."""
        return self.profile.precision

    @property
    def record(self) -> EmulatedStep:
        """For the run's environment."""
        return EmulatedStep(
            model=self.profile.model,
            rows=self.batch.rows,
            median_step_seconds=statistics.median(self.batch.step_seconds),
            shrink=self.shrink,
            profile=self.path,
            cpu_model=self.profile.cpu_model,
            started_utc=self.profile.started_utc,
            command=self.profile.command,
        )

    def images(self, config: RunConfig, size: int) -> tuple[Prepared, Split]:
        """As many as the run would train on. They are of one pixel, and nobody looks at them."""
        names = tuple(f"class {number}" for number in range(self.profile.classes))
        return noise_images(names, 1, images_of(config, size))

    def layers(self, config: RunConfig, strategy: str, size: int) -> list[ProfiledDense]:
        """The Dense layers that this strategy may take over, in the order of the forward pass.

        Raises UserError where it has to divide some and finds none, or none of that name.
        """
        known = {layer.layer: layer for layer in self.batch.dense}
        weights = {name: self.profile.weights[layer.kernel] for name, layer in known.items()}
        listed = ", ".join(f"{name} ({weight.elements:,} weights)" for name, weight in weights.items()) or "it has none"
        if strategy in DIVIDING and config.shard_layers is not None:
            asked = [name.strip() for name in config.shard_layers.split(",")]
            for name in asked:
                if name not in known:
                    raise UserError(f"shard_layers names {name!r}: Dense layers that can be divided: {listed}")
            found = [layer for layer in self.batch.dense if layer.layer in asked]
        else:
            large = [name for name, weight in weights.items() if weight.elements >= config.shard_above]
            found = [layer for layer in self.batch.dense if layer.layer in large]
        if strategy in DIVIDING and size > 1 and not found:
            raise UserError(
                f"the model has no Dense layer of at least {config.shard_above:,} weights to divide ({listed}): use "
                "strategy allreduce or sharded, or name layers with shard_layers"
            )
        return found


def network_shrink() -> float | None:
    """By how much the emulated network that this process is on is slower than what it stands for; None on another."""
    network = emulated_network()
    return None if network is None else network.shrink


def images_of(config: RunConfig, size: int) -> int:
    """That an emulated run trains on. Raises UserError where only the photos would tell."""
    if config.steps is not None:
        return config.steps * config.global_batch_for(size)
    if config.data.source != "synthetic":
        raise UserError(
            "an emulated run does not look at the photos, which would tell how many steps an epoch has: add --steps, "
            "such as --steps 20"
        )
    begin, _ = validation_range(config.data.synthetic_images, config.data)
    config.check_against(size, begin, 1)
    return begin


def emulation_of(config: RunConfig, size: int, network_shrink: float | None) -> Emulation | None:
    """What a run stands for; None of one that computes. network_shrink: of the emulated network, where there is one.

    Raises UserError where the step was measured of other work than the run's, or the run cannot be emulated.
    """
    if config.emulate.profile is None:
        return None
    path = Path(config.emulate.profile)
    rows = per_rank_batch(config.global_batch_for(size), size)
    images_of(config, size)
    try:
        profile = read_step_profile(path)
    except FileNotFoundError as error:
        raise UserError(f"there is no step profile {path}: measure one with {MEASURE} --output {path}") from error
    except OSError as error:
        raise UserError(f"step profile {path} cannot be read ({error.strerror or error})") from error
    _check_same_work(profile, config, path)
    batch = profile.batch_of(rows)
    if batch is None:
        measured = ", ".join(str(each.rows) for each in profile.batches)
        raise UserError(
            f"a rank of this run has {rows} images a step, and step profile {path} is of {measured}: measure it with "
            f"{MEASURE} --rows {rows}, too"
        )
    if profile.synchronised and size > 1 and config.strategy != INDEPENDENT:
        raise UserError(
            f"step profile {path} is of a model whose {profile.synchronised[0]} normalises over the images of all "
            "ranks (synchronized=True), which is not emulated: measure the model without that"
        )
    return Emulation(profile, batch, _shrink(config, network_shrink), str(path))


def _check_same_work(profile: StepProfile, config: RunConfig, path: Path) -> None:
    """Refuse a profile of another step than the run's (UserError)."""
    now, declared = flat_options(asdict(config)), options_of(RunConfig)
    for name in names_of(RunConfig, Effect.WORK):
        was = profile.options.get(name, declared[name].before)
        if not name.startswith("emulate.") and was != now[name]:
            raise UserError(
                f"step profile {path} was measured with {name} {was}, and the run has {now[name]}: give the run "
                f"{flag_of(name)} {was}, or measure a step of these options with {MEASURE}"
            )
    resolved = {"precision": (profile.precision, "auto"), "threads": (profile.threads, 0)}
    for name, (was, open_choice) in resolved.items():
        if now[name] not in (was, open_choice):
            raise UserError(
                f"step profile {path} was measured with {name} {was}, and the run has {now[name]}: leave out "
                f"{flag_of(name)}, or measure another with {MEASURE}"
            )


def _shrink(config: RunConfig, of_network: float | None) -> float:
    given = config.emulate.shrink
    if of_network is not None and given not in (None, of_network):
        raise UserError(
            f"emulate.shrink is {given:g}, and the emulated network is 1/{of_network:g} of what it stands for: leave "
            "out --emulate.shrink"
        )
    return given or of_network or 1.0


def check_room(emulation: Emulation, layers: Sequence[ProfiledDense], inputs: Sequence[int], size: int) -> None:
    """Refuse a double whose Dense layers have become too small to be divided as the model's are (UserError).

    inputs: of each of the layers in the double.
    """
    for layer, few in zip(layers, inputs, strict=True):
        whole = emulation.profile.weights[layer.kernel].shape[0]
        if few < size <= whole:
            raise UserError(
                f"with emulate.shrink {emulation.shrink:g} Dense layer {layer.layer} has {few} inputs left, too few to "
                f"divide over {size} ranks: choose a smaller shrink"
            )


def for_double(config: RunConfig) -> RunConfig:
    """Options for the strategy of a double, all of whose Dense layers are large ones."""
    return replace(config, shard_above=1)
