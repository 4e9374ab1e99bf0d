"""People's own models on two ranks, from the first step to the checkpoint, and weights that go from run to run."""

from dataclasses import dataclass
from pathlib import Path

import pytest
from safetensors.numpy import load_file

from horovod_flowers.runlog.reading.run import read_run
from tests.conftest import Workplace
from tests.parallel.commands_in_one_job import Command
from tests.single import own_models

ZOO = own_models.__name__
SAME = ("logits", "softmax", "softmax_layer", "softmax_subclassed", "subclassed", "not_built")
OTHERS = {
    "scalars": ("--strategy", "allreduce"),
    "scalars_sharded": ("--model.name", f"{ZOO}:scalars", "--strategy", "sharded"),
    "mixed_bfloat16": (),
    "compiled": (),
    "tuned": ("--model.name", f"{ZOO}:logits", "--model.weights", "runs/logits"),
}


@dataclass(frozen=True)
class Trained:
    """The runs of this module, and what each printed."""

    runs: Path
    printed: dict[str, str]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, prepared_folder: Path) -> Trained:
    workplace = Workplace(tmp_path_factory.mktemp("own models"), prepared_folder)

    def training(name: str, *options: str) -> Command:
        common = ("--model.name", f"{ZOO}:{name}", "--global-batch", "16", "--epochs", "2", "--name", name)
        return workplace.training(*common, *options)

    commands = [training(name) for name in SAME] + [training(name, *options) for name, options in OTHERS.items()]
    printed = workplace.run_in_one_job(*commands, ranks=2)
    return Trained(workplace.folder / "runs", dict(zip((*SAME, *OTHERS), printed, strict=True)))


@pytest.mark.parametrize("name", SAME[1:])
def test_every_kind_of_outputs_and_of_model_trains_as_its_logits_do(trained: Trained, name: str) -> None:
    found, expected = (read_run(trained.runs / run).epochs[-1] for run in (name, "logits"))
    assert found.training_loss == pytest.approx(expected.training_loss, rel=1e-4)
    assert found.validation_loss == pytest.approx(expected.validation_loss, rel=1e-4)
    told = f"model {ZOO}:{name} ends in softmax: its outputs are taken as probabilities"
    assert (told in trained.printed[name]) == name.startswith("softmax")


@pytest.mark.parametrize("name", ["scalars", "scalars_sharded"])
def test_scalar_weights_train_and_are_kept(trained: Trained, name: str) -> None:
    """One that is trained and one that is not."""
    stored = load_file(trained.runs / name / "checkpoints" / "last.safetensors")
    scalars = [value for key, value in stored.items() if key.startswith("weight.") and value.shape == ()]
    assert len(scalars) == 2
    assert 1 in scalars  # the temperature stays
    assert any(value != 1 for value in scalars)


def test_what_a_model_says_of_itself_is_told(trained: Trained) -> None:
    said = "is compiled: trained by its optimizer SGD (learning rate 0.01, at any global batch) and its loss mse"
    assert said in trained.printed["compiled"]
    assert "computes in bfloat16 by its own dtype policy" in trained.printed["mixed_bfloat16"]


def test_a_run_starts_from_the_weights_of_another(trained: Trained) -> None:
    before, after = (read_run(trained.runs / run).epochs for run in ("logits", "tuned"))
    assert "weights from runs/logits/checkpoints/best.safetensors, after epoch" in trained.printed["tuned"]
    assert after[0].training_loss is not None
    assert before[0].training_loss is not None
    assert after[0].training_loss < before[0].training_loss
    assert after[0].learning_rate == before[0].learning_rate  # the optimizer starts anew
