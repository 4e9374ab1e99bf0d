"""What a run is: one frozen tree of options, from which flags, YAML keys and --help are generated.

Every value is checked here, without MPI and without TensorFlow, before any rank waits for another.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from horovod_flowers.config.choices import DIVIDING_WEIGHTS, INDEPENDENT, PrecisionChoice, StrategyChoice
from horovod_flowers.config.data import DataConfig
from horovod_flowers.config.emulate import EmulateConfig, check_emulated
from horovod_flowers.config.keras_arguments import OF_WHOLE_WEIGHTS
from horovod_flowers.config.losses import CROSSENTROPY, check_loss, loss_called
from horovod_flowers.config.optimizer import OptimizerConfig
from horovod_flowers.config.options import (
    MOST_SEED,
    MOST_THREADS,
    Effect,
    check_limits,
    check_strategy,
    flag_of,
    option,
    options_of,
)
from horovod_flowers.runtime.errors import UserError

PRESETS = Path(__file__).parent / "presets"
RUN_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._=+-]{0,127}")
"""A name that is a safe folder name everywhere, and harmless wherever it is shown."""

OVERRIDING = ("loss", "loss_options", "label_smoothing", "optimizer.")
"""How the names of options begin that go before what a compiled model brings."""
NOTHING = "nothing"
"""Of these options, in `ModelConfig.overrides`."""


def overriding(names: Sequence[str]) -> str:
    """Those of some options' names that go before what a compiled model brings, separated by commas."""
    return ",".join(sorted({name for name in names if name.startswith(OVERRIDING)}))


def with_overrides(config: "RunConfig", names: Sequence[str]) -> "RunConfig":
    """A run whose command line gives options of these names; the same where its model is none that may be compiled."""
    model = config.model
    if ":" not in model.name and not model.name.endswith(".keras"):
        return config
    given = overriding([*(model.overrides or "").split(","), *names])
    return replace(config, model=replace(model, overrides=given or NOTHING))


@dataclass(frozen=True)
class ModelConfig:
    """Which network is trained."""

    name: str = option(
        "flower_cnn",
        "a registered model, or package.module:function for your own: called as function(image_size=, classes=), it "
        "returns a Keras model that takes pixels 0..255 and gives one logit or probability per class "
        "(docs/own-models.md); or package.module:model for one that is built there, or a file that model.save wrote "
        "(PATH.keras); or keras.applications:NAME",
        Effect.WORK,
    )
    options: dict[str, Any] | None = option(
        None,
        "further arguments of that function, or of the application, such as --model.options.width 32, or a mapping: "
        "'{width: 32, activation: gelu}'",
        Effect.WORK,
        before=None,
    )
    freeze: str | None = option(
        None,
        "layers or weights that are not trained: patterns of their names or paths, separated by commas, such as "
        "'conv2d*,*/bias' (what a layer holds is frozen with it)",
        Effect.WORK,
        before=None,
    )
    overrides: str | None = option(
        None,
        "of a compiled model: the options given on the command line, which go before what the model brings (found by "
        "train itself, and kept in the run for --resume)",
        Effect.WORK,
        before=None,
    )
    weights: str | None = option(
        None,
        "weights to start from: a run (runs/NAME), its checkpoint (.safetensors) or an export of this model, also for "
        "other classes; or a .weights.h5, .h5 or .keras file of it, or of keras.applications:NAME without its top "
        "(default: random weights; nothing is downloaded)",
        Effect.RECIPE,
        before=None,
    )


@dataclass(frozen=True)
class HorovodConfig:
    """How Horovod schedules collective calls."""

    fusion_threshold_mb: float | None = option(
        None,
        "tensors that are ready together are fused into one call of up to this many MB (default: Horovod's 128 on two "
        "ranks; on more, calls of fixed contents, since what is fused differs from run to run, and so do rounded sums)",
        Effect.SPEED,
        at_least=0,
        at_most=4096,
        limits="give 0 (no fusion) to 4096, such as 128",
    )
    cycle_time_ms: float | None = option(
        None,
        "Horovod's cycle time: milliseconds between two checks for tensors to send (default: Horovod's 1)",
        Effect.SPEED,
        above=0,
        at_most=1000,
        limits="give 0.1 to 1000, such as 1",
    )

    def __post_init__(self) -> None:
        check_limits(self, "horovod.")


@dataclass(frozen=True)
class RunConfig:
    """One training run."""

    preset: Literal["plain", "accurate"] = option(
        "plain",
        "values that other options start from. plain: the notebook's training, their defaults; accurate: training that "
        "generalises (a residual network, augmentation, label smoothing, weight decay, averaged weights, 60 epochs)",
        Effect.HARMLESS,
        before="plain",
        presets=PRESETS,
    )
    name: str | None = option(
        None, "name of the run, a folder in --runs-dir (default: date, time and rank count)", Effect.FOLDER
    )
    runs_dir: str = option("runs", "folder that holds the runs", Effect.FOLDER)
    overwrite: bool = option(False, "replace a run of the same name", Effect.FOLDER)
    resume: bool = option(
        False, "continue the run of this --name from its last checkpoint, up to --epochs", Effect.FOLDER
    )
    resume_or_start: bool = option(
        False,
        "bring the run of this --name to its end: do nothing if it is complete, resume it if it has a checkpoint, "
        "start it otherwise (for job scripts that are requeued)",
        Effect.FOLDER,
    )
    epochs: int = option(1, "passes over the training images", Effect.RECIPE, resumable=True, at_least=1)
    steps: int | None = option(
        None, "end each epoch after this many steps (for timing studies)", Effect.RECIPE, at_least=1
    )
    global_batch: int | None = option(
        None, "images per step over all ranks: strong scaling, the work stays the same", Effect.RESOLVED, at_least=1
    )
    per_rank_batch: int | None = option(
        None,
        "images per step on each rank: weak scaling, the work grows with the ranks (default 32)",
        Effect.RESOLVED,
        at_least=1,
    )
    seed: int = option(
        0,
        "seed of weights, image order and augmentation",
        Effect.REPETITION,
        at_least=0,
        at_most=MOST_SEED,
    )
    label_smoothing: float = option(
        0.0,
        "share of each label that is spread over all classes (Szegedy et al. 2016, section 7)",
        Effect.WORK,
        before=0.0,
        at_least=0,
        below=1,
    )
    loss: str = option(
        CROSSENTROPY,
        "what training makes small: crossentropy, or another of Keras' losses for one class a photo, such as "
        "categorical_focal_crossentropy. A compiled model brings its own, unless this is given",
        Effect.WORK,
        before=CROSSENTROPY,
    )
    loss_options: dict[str, Any] | None = option(
        None, "further arguments of that loss as Keras names them, such as --loss-options.gamma 3", Effect.WORK,
        before=None,
    )  # fmt: skip
    average_decay: float = option(
        0.0,
        "evaluate and keep a running average of the weights: the share of it that a step of --optimizer.base-batch "
        "images leaves, such as 0.99 (Polyak and Juditsky 1992); 0: none",
        Effect.WORK,
        before=0.0,
        at_least=0,
        below=1,
    )
    early_stopping: int | None = option(
        None,
        "end the run after this many epochs without a better validation accuracy, or loss (--early-stopping-on)",
        Effect.RECIPE,
        resumable=True,
        before=None,
        at_least=1,
    )
    early_stopping_on: Literal["accuracy", "loss"] = option(
        "accuracy",
        "what --early-stopping watches: validation accuracy, or validation loss",
        Effect.RECIPE,
        resumable=True,
        before="accuracy",
    )
    strategy: StrategyChoice = option(
        "allreduce",
        "how ranks divide the work. allreduce: each rank its part of the batch, gradients averaged; sharded: the same, "
        "but each rank updates and keeps optimizer state for its part of the weights only (ZeRO); tensor: large Dense "
        "layers are divided over all ranks; mesh: over groups of --model-parallel-size ranks; none: ranks train "
        "independently, which shows what is lost to communication; auto: whichever is fastest in a few steps at the "
        "start",
        Effect.RESOLVED,
    )
    model_parallel_size: int | None = option(
        None,
        "mesh: ranks that divide one copy of the large Dense layers (default: the ranks of a node)",
        Effect.STRATEGY,
        strategies=("mesh", "auto"),
        label="of {}",
        at_least=1,
    )
    shard_layers: str | None = option(
        None,
        "tensor and mesh: the Dense layers to divide, names separated by commas (default: by --shard-above)",
        Effect.STRATEGY,
        strategies=("tensor", "mesh", "auto"),
    )
    shard_above: int = option(
        1_000_000,
        "a Dense layer with at least this many weights counts as large",
        Effect.STRATEGY,
        label="above {}",
        at_least=1,
    )
    dense_gradients: Literal["auto", "reduced", "factors"] = option(
        "auto",
        "allreduce and sharded: how the gradient of a large Dense layer is combined: reduced, as it is; factors: its "
        "inputs and output gradients are gathered and multiplied on arrival; auto: whichever sends fewer bytes",
        Effect.STRATEGY,
        strategies=("allreduce", "sharded", "auto"),
    )
    compression: Literal["none", "fp16"] = option(
        "none", "allreduce: send gradients in half precision", Effect.STRATEGY, strategies=("allreduce",)
    )
    accumulate: int = option(
        1,
        "steps whose gradients are added up before they are combined and the weights updated",
        Effect.WORK,
        at_least=1,
    )
    precision: PrecisionChoice = option(
        "auto",
        "of convolutions and products: bf16 where the CPU has instructions for it (auto chooses it there), fp16 on a "
        "GPU; weights, loss and sums over ranks stay in fp32",
        Effect.RESOLVED,
    )
    warmup_steps: int = option(3, "first steps of a run that timings leave out", Effect.SPEED, at_least=0)
    threads: int = option(
        0,
        "TensorFlow threads, and with --bind auto cores, of each rank; 0: as many as its share of the node's cores",
        Effect.RESOLVED,
        at_least=0,
        at_most=MOST_THREADS,
    )
    bind: Literal["auto", "none"] = option("auto", "auto: pin each rank to its share of the node's cores", Effect.SPEED)
    stall_seconds: int = option(
        120,
        "end the job, naming the rank that holds it up, when there has been no progress for so many seconds (five "
        "times as many, and at least a minute, while graphs are built or checkpoints written); 0: wait forever",
        Effect.HARMLESS,
        before=120,
        at_least=0,
    )
    elastic: bool = option(
        False,
        "keep training when ranks die or join, at the same global batch (needs horovodrun with "
        "--host-discovery-script: docs/elastic.md)",
        Effect.SPEED,
        before=False,
    )
    commit_steps: int = option(
        10,
        "elastic: updates between two copies of weights and optimizer that ranks keep in memory; a lost rank costs no "
        "more than these",
        Effect.SPEED,
        before=10,
        at_least=1,
    )
    checkpoint: bool = option(
        True, "write the last and the best checkpoint after every epoch (--no-checkpoint)", Effect.HARMLESS
    )
    checkpoint_steps: int | None = option(
        None,
        "also write a checkpoint every so many steps, so that a job that dies loses no more than these",
        Effect.HARMLESS,
        before=None,
        at_least=1,
    )
    keep_checkpoints: int = option(
        2,
        "how many of the last checkpoints are kept: where the newest is damaged, --resume takes the one before",
        Effect.HARMLESS,
        before=1,
        at_least=1,
    )
    check_weights: bool = option(
        True,
        "compare the weights of all ranks by a checksum before each checkpoint and at the end of every epoch",
        Effect.HARMLESS,
        before=False,
    )
    replay_step: int | None = option(
        None,
        "with --resume: train again from the checkpoint before this step of the run (counted from 0) up to it, and "
        "print the loss of each of its images, instead of continuing; changes no file",
        Effect.HARMLESS,
        before=None,
    )
    validate: bool = option(True, "evaluate the validation images after every epoch (--no-validate)", Effect.HARMLESS)
    tensorboard: bool = option(False, "write TensorBoard logs into the run", Effect.OUTPUT)
    data: DataConfig = field(default_factory=DataConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    emulate: EmulateConfig = field(default_factory=EmulateConfig)
    horovod: HorovodConfig = field(default_factory=HorovodConfig)

    def __post_init__(self) -> None:
        if self.name is not None and not RUN_NAME.fullmatch(self.name):
            raise UserError(
                f"name is {self.name!r}: use up to 128 letters, digits and . _ = + -, beginning with a letter or digit"
            )
        if self.global_batch is not None and self.per_rank_batch is not None:
            raise UserError(
                f"both global_batch ({self.global_batch}) and per_rank_batch ({self.per_rank_batch}) are given: "
                "give --global-batch for strong scaling or --per-rank-batch for weak scaling, not both"
            )
        check_limits(self)
        if self.emulate.profile is not None:
            self._refuse_unless_emulated()
        object.__setattr__(self, "loss", loss_called(self.loss))  # two names for one would tell runs apart
        check_loss(self.loss, self.loss_options, self.label_smoothing)
        for name in ("resume", "resume_or_start"):
            if getattr(self, name) and self.name is None:
                raise UserError(f"{name} needs to know which run: add --name RUN")
        self._check_validated()
        if self.overwrite and (self.resume or self.resume_or_start):
            raise UserError("resume and overwrite are both given: continue the run or replace it, not both")
        if self.replay_step is not None and not (self.resume and self.replay_step >= 0):
            raise UserError(f"replay_step is {self.replay_step}: give a step from 0 on, with --resume --name RUN")
        self._check_strategy()

    def _refuse_unless_emulated(self) -> None:
        """Refuse what an emulated run cannot do (UserError), and leave out what it does not: no checkpoint, no
        validation, no cores of its own, since it hardly uses any."""
        check_emulated(self, {name: found.default for name, found in options_of(RunConfig).items()})
        for name, value in {"checkpoint": False, "validate": False, "bind": "none"}.items():
            object.__setattr__(self, name, value)

    def _check_validated(self) -> None:
        """Refuse what follows the validation images where these are not evaluated (UserError)."""
        for name in self._following_validation:
            if not self.validate:
                flag = flag_of(name)
                raise UserError(f"{name} needs the validation images evaluated: leave out --no-validate or {flag}")
        if self.early_stopping is None and self.early_stopping_on != "accuracy":
            raise UserError("early_stopping_on is given without --early-stopping: add it")

    @property
    def _following_validation(self) -> list[str]:
        """Options given that follow what the validation images say."""
        given = {"early_stopping": self.early_stopping, "optimizer.plateau_epochs": self.optimizer.plateau_epochs}
        return [name for name, epochs in given.items() if epochs is not None]

    def _check_strategy(self) -> None:
        """Refuse an option that the strategy would not use (UserError)."""
        if self.elastic and self.strategy != "allreduce":
            raise UserError(
                f"strategy is {self.strategy!r} but elastic training keeps all weights on every rank: choose "
                "--strategy allreduce, or leave out --elastic"
            )
        check_strategy(self, self.strategy)
        if self.optimizer.name in OF_WHOLE_WEIGHTS and self.strategy in DIVIDING_WEIGHTS:
            raise UserError(
                f"optimizer.name is {self.optimizer.name!r}, which looks at whole weights, and strategy "
                f"{self.strategy} divides them over the ranks: choose --strategy allreduce, or another optimizer"
            )
        if self.dense_gradients == "factors" and self.compression != "none":
            raise UserError(
                "dense_gradients 'factors' and compression are both given: factors are not compressed, leave out one"
            )
        if self.dense_gradients == "factors" and self.accumulate > 1:
            raise UserError(
                "dense_gradients is 'factors' but accumulate adds up gradients: leave out --dense-gradients, or "
                "--accumulate"
            )

    def without_start_options(self) -> "RunConfig":
        """The same run, but for how it was started: what its record says, and what it goes on with."""
        return replace(self, overwrite=False, resume=False, resume_or_start=False)

    @property
    def scaling(self) -> Literal["strong", "weak"]:
        """Which of the two a run belongs to: what is held while the ranks grow."""
        return "strong" if self.global_batch is not None else "weak"

    def global_batch_for(self, world_size: int) -> int:
        """Images a step over all ranks. Raises UserError where the ranks cannot share it equally, but for elastic ones,
        whose number changes: some of them get one image less."""
        if self.global_batch is None:
            return (self.per_rank_batch or 32) * world_size
        if self.global_batch % world_size and not self.elastic:
            below = self.global_batch // world_size * world_size
            tries = f"{below} or {below + world_size}" if below else f"{world_size}"
            raise UserError(
                f"global_batch {self.global_batch} cannot be divided equally over {world_size} ranks: try {tries}"
            )
        return self.global_batch

    def model_parallel_size_for(self, world_size: int, ranks_per_node: int) -> int:
        """Ranks that share one copy of the large Dense layers. Raises UserError where groups do not fill the world.

        Without --model-parallel-size: the ranks of a node, between which data moves fastest, or the next smaller
        divisor of the world size.
        """
        size = self.model_parallel_size
        divisors = [divisor for divisor in range(1, world_size + 1) if world_size % divisor == 0]
        if size is None:
            return max(divisor for divisor in divisors if divisor <= max(1, ranks_per_node))
        if size not in divisors:
            raise UserError(
                f"model_parallel_size {size} does not divide {world_size} ranks: try {', '.join(map(str, divisors))}"
            )
        return size

    def check_against(self, world_size: int, training_images: int, validation_images: int) -> None:
        """Refuse what only the rank and image counts can show, in one sentence (UserError)."""
        batch = self.global_batch_for(world_size)
        if self.strategy == INDEPENDENT and world_size > 1 and self._following_validation:
            name = self._following_validation[0]
            raise UserError(
                f"{name} needs one model to evaluate, and with strategy none each rank trains its own: leave out "
                f"{flag_of(name)}"
            )
        if world_size > training_images:
            raise UserError(
                f"{world_size} ranks are more than the {training_images} training images: start fewer ranks"
            )
        if batch > training_images:
            raise UserError(
                f"a global batch of {batch} images ({world_size} ranks) is more than the {training_images} training "
                "images: use a smaller --global-batch or --per-rank-batch, or fewer ranks"
            )
        if validation_images < 1:
            raise UserError("no image is left for validation: raise --data.validation-fraction or add images")
