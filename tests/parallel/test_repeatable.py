"""The same training twice has the same weights bit by bit, at any number of ranks; so has one that was resumed."""

from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from tests.conftest import Workplace

# More tensors than are ready at once, in three steps an epoch.
OPTIONS = ("--global-batch", "30", "--threads", "1", "--data.augment")
MODELS: dict[int, tuple[tuple[str, ...], ...]] = {
    3: (
        ("--dense-gradients", "reduced"),
        ("--strategy", "sharded", "--dense-gradients", "reduced"),
        ("--strategy", "tensor"),
    ),
    5: ((),),
    6: (("--strategy", "mesh", "--model-parallel-size", "3"),),
}


@pytest.mark.parametrize("ranks", list(MODELS))
def test_the_same_training_has_the_same_weights(workplace: Workplace, ranks: int) -> None:
    """Fused sums differ in their last bits, since timing decides what is fused: so calls have fixed contents."""
    training, commands, pairs = workplace.training, [], []
    first, *others = MODELS[ranks]
    commands.append(training(*OPTIONS, *first, "--epochs", "2", "--name", "whole"))
    commands.append(training(*OPTIONS, *first, "--epochs", "1", "--name", "resumed"))
    commands.append(training(*OPTIONS, *first, "--epochs", "2", "--name", "resumed", "--resume"))
    pairs.append(("whole", "resumed"))
    for number, options in enumerate(others):
        pairs.append((f"{number}-once", f"{number}-again"))
        commands += [training(*OPTIONS, *options, "--name", name) for name in pairs[-1]]
    printed = workplace.run_in_one_job(*commands, ranks=ranks)
    assert all("the same calls in every run" in text for text in printed)
    for pair in pairs:
        expected, found = (weights(workplace.folder / "runs" / name) for name in pair)
        differing = [key for key, value in expected.items() if not np.array_equal(value, found[key])]
        assert differing == [], f"{pair} on {ranks} ranks: {len(differing)} of {len(expected)}"


def weights(run: Path) -> dict[str, np.ndarray]:
    return load_file(run / "checkpoints" / "last.safetensors")
