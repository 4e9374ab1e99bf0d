"""What a run trains by: loss, optimizer, learning rate, clipping and metrics, from the options or from the model.

A compiled model brings its own. What the command line gives goes before it, and that is said.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from horovod_flowers.config.keras_arguments import OF_WHOLE_WEIGHTS
from horovod_flowers.config.losses import CROSSENTROPY
from horovod_flowers.config.optimizer import OptimizerConfig
from horovod_flowers.config.options import flag_of
from horovod_flowers.config.run import RunConfig
from horovod_flowers.model.compiled import Compiled
from horovod_flowers.model.keras_internals import learning_rate_of
from horovod_flowers.model.loss import CrossEntropy, ImageLoss, labels_of, loss_by_name, loss_of_model
from horovod_flowers.model.metrics import CompiledMetrics
from horovod_flowers.model.registry import BuiltModel
from horovod_flowers.runtime.errors import UserError
from horovod_flowers.training.learning_rate import KerasSchedule, LearningRate, schedule
from horovod_flowers.training.optimizer import Clipping, acts_on_elements, make_optimizer, optimizer_like
from horovod_flowers.training.weight_average import KerasAverage

_CURVE: tuple[str, ...] = (
    "scaling",
    "base_batch",
    "warmup_epochs",
    "warmup_from_zero",
    "decay",
    "decay_epochs",
    "decay_rate",
)
_CURVE += ("decay_power", "decay_end", "plateau_epochs", "plateau_factor")
"""Options of the optimizer that shape its learning rate."""


@dataclass(frozen=True, eq=False)
class Recipe:
    """What one run trains by."""

    loss: ImageLoss
    optimizer: Any
    """A keras.Optimizer that is not built yet, without clipping."""
    learning_rate: Callable[[int, int, int], LearningRate]
    """Of images of an update, steps of an epoch, and epochs."""
    clipping: Clipping | None
    metrics: CompiledMetrics | None = None
    average: KerasAverage | None = None
    undecayed: frozenset[int] | None = None
    """The weights that weight decay leaves alone, by their numbers among the model's variables; None: all that are no
    kernels."""
    notes: list[str] = field(default_factory=list)


def recipe_of(config: RunConfig, built: BuiltModel, classes: int, weighted: bool, divided: bool) -> Recipe:
    """What a run of these options trains this model by.

    weighted: whether images count differently in the loss; divided: whether the ranks update parts of weights. Raises
    UserError where an option, or what the model is compiled with, cannot be followed.
    """
    by_options = built.compiled is None or "optimizer.name" in (config.model.overrides or "").split(",")
    if by_options and divided and config.optimizer.name in OF_WHOLE_WEIGHTS:  # a trial of strategies asks, too
        raise UserError(
            f"optimizer {config.optimizer.name} looks at whole weights, and this strategy divides them over the ranks: "
            "choose --strategy allreduce, or another optimizer"
        )
    if built.compiled is None:
        loss, notes = loss_by_name(
            config.loss, config.loss_options, config.label_smoothing, built.ending, classes, config.model.name
        )
        return _by_options(config, config.optimizer, loss, notes)
    return _by_model(config, built.compiled, classes, weighted, divided)


def _by_options(config: RunConfig, optimizer: OptimizerConfig, loss: ImageLoss, notes: list[str]) -> Recipe:
    def learning_rate(images: int, steps_per_epoch: int, epochs: int) -> LearningRate:
        return schedule(optimizer, images, steps_per_epoch, epochs)

    return Recipe(loss, make_optimizer(optimizer), learning_rate, Clipping.of(optimizer), notes=notes)


def _by_model(config: RunConfig, compiled: Compiled, classes: int, weighted: bool, divided: bool) -> Recipe:
    given = set((config.model.overrides or "").split(",")) - {""}
    said: list[str] = []
    found = compiled.losses() if "loss" not in given else []
    loss, notes = _loss(config, compiled, found, classes, given)
    if found and weighted and found[0][0].reduction == "mean_with_sample_weight":
        raise UserError(
            f"model {compiled.name} is compiled with a loss that divides by the sum of the images' weights "
            "(mean_with_sample_weight), which is not done here: leave the reduction out of the loss, or "
            "--data.class-weights and --data.sample-weights"
        )
    brought = [f"its loss {found[0][0].name}"] if found else []
    if "loss" in given:
        said.append(f"--loss {config.loss} instead of its loss")
    elif not found:
        notes.append(f"model {compiled.name} is compiled without a loss: {CROSSENTROPY} is trained")
    recipe = _with_optimizer(config, compiled, given, divided, brought, said, _by_options)
    form = labels_of(found or _losses_if_any(compiled))
    metrics = compiled.metrics(form)
    if metrics:
        brought.append(f"its metrics {', '.join(name for name, _, _ in metrics)}")
    if compiled.left_out:
        said.append(f"{', '.join(compiled.left_out)} of compile is left out")
    trained = f"trained by {' and '.join(brought)}" if brought else "of which nothing is used"
    note = f"model {compiled.name} is compiled: {trained}{''.join(f'; {each}' for each in said)}"
    return replace(
        recipe,
        loss=loss,
        metrics=CompiledMetrics(metrics, compiled.ending, form, classes) if metrics else None,
        notes=[note, *notes],
    )


def _losses_if_any(compiled: Compiled) -> list[tuple[Any, float | None]]:
    try:
        return compiled.losses()
    except UserError:  # another one is trained
        return []


def _loss(
    config: RunConfig, compiled: Compiled, found: list[tuple[Any, float | None]], classes: int, given: set[str]
) -> tuple[ImageLoss, list[str]]:
    smoothing = config.label_smoothing if "label_smoothing" in given else 0.0
    if "loss" in given:
        return loss_by_name(config.loss, config.loss_options, smoothing, compiled.ending, classes, compiled.name)
    if "loss_options" in given:
        raise UserError(
            f"loss_options are given, and model {compiled.name} is compiled with a loss of its own: add --loss, or "
            "leave them out"
        )
    if not found:
        return CrossEntropy(smoothing), []
    loss = loss_of_model(found, compiled.ending, classes, smoothing, compiled.name)
    return loss, loss.notes


def _with_optimizer(
    config: RunConfig,
    compiled: Compiled,
    given: set[str],
    divided: bool,
    brought: list[str],
    said: list[str],
    by_options: Callable[[RunConfig, OptimizerConfig, ImageLoss, list[str]], Recipe],
) -> Recipe:
    """The recipe with the model's optimizer, or with that of the options where one is named; says so."""
    options = {name.removeprefix("optimizer.") for name in given if name.startswith("optimizer.")}
    optimizer, of = compiled.optimizer, f"model {compiled.name} is compiled with the optimizer "
    kind = type(optimizer).__name__
    if "name" in options:
        said.append(f"--optimizer.name {config.optimizer.name} instead of its optimizer {kind}")
        return by_options(config, config.optimizer, CrossEntropy(), [])
    for name in ("momentum", "options"):
        if name in options:
            raise UserError(
                f"optimizer.{name} is given, and {of}{kind}: add --optimizer.name, or leave out "
                f"{flag_of(f'optimizer.{name}')}"
            )
    own_rate = learning_rate_of(optimizer)
    clips = {name: getattr(optimizer, name, None) for name in ("global_clipnorm", "clipnorm", "clipvalue")}
    if options & clips.keys():
        clips = {name: getattr(config.optimizer, name) for name in clips}
        said.append(f"{_flags(options & clips.keys())} instead of its clipping")
    decay = optimizer.weight_decay
    if "weight_decay" in options:
        decay = config.optimizer.weight_decay or None
        said.append(
            f"--optimizer.weight-decay {config.optimizer.weight_decay:g} instead of its {optimizer.weight_decay}"
        )
    new = optimizer_like(optimizer, decay, compiled.name)
    if divided and not acts_on_elements(new):
        raise UserError(
            f"{of}{kind}, which looks at whole weights, and strategy {config.strategy} divides them over the ranks: "
            "choose --strategy allreduce, or another optimizer"
        )
    if isinstance(own_rate, float) or "learning_rate" in options:
        rate = config.optimizer.learning_rate if "learning_rate" in options else float(own_rate)
        if "learning_rate" in options:
            was = f"{own_rate:g}" if isinstance(own_rate, float) else type(own_rate).__name__
            said.append(f"--optimizer.learning-rate {rate:g} instead of its {was}")
        curve = _curve_of(config.optimizer, rate, kind, options)
        brought.insert(0, f"its optimizer {kind} (learning rate {rate:g}{_curve_in_words(curve, options)})")

        def learning_rate(images: int, steps_per_epoch: int, epochs: int) -> LearningRate:
            return schedule(curve, images, steps_per_epoch, epochs)
    else:
        if shaping := sorted(options & set(_CURVE)):
            raise UserError(
                f"optimizer.{shaping[0]} is given, and {of}{kind} with a learning rate that follows "
                f"{type(own_rate).__name__}: leave it out, or give --optimizer.learning-rate, too"
            )
        brought.insert(0, f"its optimizer {kind} (learning rate by {type(own_rate).__name__})")

        def learning_rate(images: int, steps_per_epoch: int, epochs: int) -> LearningRate:
            return KerasSchedule(own_rate, steps_per_epoch, config.accumulate)

    undecayed = compiled.undecayed if decay is not None else frozenset[int]()
    clipping, average = Clipping.with_norms(**clips), _average_of(config, optimizer, of)
    if average is not None:
        brought.append("its average of the weights, which is validated and kept")
    return Recipe(CrossEntropy(), new, learning_rate, clipping, average=average, undecayed=undecayed)


def _average_of(config: RunConfig, optimizer: Any, of: str) -> KerasAverage | None:
    """The average that a compiled model's optimizer keeps. Raises UserError where the options ask for another one."""
    if not optimizer.use_ema:
        return None
    if config.average_decay:
        raise UserError(
            f"average_decay is {config.average_decay}, and {of}{type(optimizer).__name__} with use_ema, which averages "
            "weights, too: leave out one of the two"
        )
    return KerasAverage(float(optimizer.ema_momentum), optimizer.ema_overwrite_frequency)


def _flags(names: Sequence[str] | set[str]) -> str:
    return ", ".join(flag_of(f"optimizer.{name}") for name in sorted(names))


def _curve_of(config: OptimizerConfig, rate: float, kind: str, options: set[str]) -> OptimizerConfig:
    """The options that shape the learning rate, as far as they are given; else it stays, at any number of ranks."""
    started = {"scaling": "none", "warmup_epochs": 0.0, "warmup_from_zero": False, "decay": "none"}
    unshaped = {name: value for name, value in started.items() if name not in options}
    if "decay" not in options:
        unshaped |= {"decay_epochs": None, "decay_rate": 0.1, "decay_power": 1.0, "decay_end": 0.0}
    like = "sgd" if kind == "SGD" else "adam"  # by which --optimizer.scaling auto chooses
    return replace(config, name=like, options=None, learning_rate=rate, **unshaped)  # type: ignore[arg-type]


def _curve_in_words(curve: OptimizerConfig, options: set[str]) -> str:
    shaped = sorted(options & set(_CURVE))
    if shaped:
        return f", shaped by {_flags(shaped)}"
    return ", at any global batch"
