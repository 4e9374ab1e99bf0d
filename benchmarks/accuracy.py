"""What training reaches on tf_flowers: each preset and batch at several seeds and numbers of ranks, and a notebook.

TFDS_DATA_DIR=FOLDER python benchmarks/accuracy.py accurate:32x1 accurate:32x2 accurate:32x4 accurate:256x2 plain:32x2
TFDS_DATA_DIR=FOLDER python benchmarks/accuracy.py --seeds 0 --notebook accurate:64x2

A contender is PRESET:GLOBAL_BATCHxRANKS. The runs are in --runs-dir; one that is there already is not repeated.
Accuracies are those of the best epoch on the validation photos; the interval beside the mean is over seeds alone (its
standard deviation). Seconds to 0.70 are of training, the validation after each epoch left out, as for the notebook.
"""

import argparse
import json
import os
import re
import statistics
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table

from horovod_flowers.runlog.json_lines import read_json, read_lines
from horovod_flowers.runlog.records import Environment, EpochRecord
from horovod_flowers.runlog.run_folder import RunFolder

AIM = 0.70
PLAIN_EPOCHS = 10
NOTEBOOK = Path(__file__).with_name("notebook.py")


@dataclass(frozen=True)
class Learning:
    """One training."""

    accuracies: list[float]
    """Validation accuracy after each epoch."""
    seconds: list[float]
    """Of training, until each epoch's end."""
    oversubscribed: bool = False

    @property
    def best(self) -> float:
        return max(self.accuracies)

    @property
    def best_seconds(self) -> float:
        """Until the best epoch's end."""
        return self.seconds[self.accuracies.index(self.best)]

    @property
    def aim_seconds(self) -> float | None:
        """Until AIM was reached; None where it never was."""
        pairs = zip(self.accuracies, self.seconds, strict=True)
        return next((seconds for accuracy, seconds in pairs if accuracy >= AIM), None)


def train(contender: str, seed: int, runs_dir: Path) -> Learning:
    """Train where the run is not there yet, and read what it learned."""
    found = re.fullmatch(r"(\w+):(\d+)x(\d+)", contender)
    if found is None:
        sys.exit(f"there is no contender {contender!r}: give PRESET:GLOBAL_BATCHxRANKS, such as accurate:32x2")
    preset, batch, ranks = found[1], found[2], found[3]
    folder = RunFolder(runs_dir / f"{preset}-{batch}-{ranks}ranks-seed{seed}")
    words = ["--preset", preset, "--global-batch", batch, "--seed", str(seed), "--data.source", "tf_flowers"]
    words += ["--runs-dir", str(runs_dir), "--name", folder.path.name]
    if preset == "plain":
        words += ["--epochs", str(PLAIN_EPOCHS)]
    if not folder.result.exists():
        launcher = [sys.executable, "-m", "horovod_flowers.launcher", "--ranks", ranks, "--"]
        command = [*launcher, "python", "-m", "horovod_flowers.train", *words, "--overwrite"]
        subprocess.run(command, check=True, stdout=sys.stderr)
    epochs = list(read_lines(folder.epochs, EpochRecord))
    accuracies = [epoch.validation_accuracy for epoch in epochs if epoch.validation_accuracy is not None]
    seconds = [sum(epoch.training_seconds for epoch in epochs[: count + 1]) for count in range(len(epochs))]
    return Learning(accuracies, seconds, read_json(folder.environment, Environment).oversubscribed)


def run_notebook(seed: int) -> Learning:
    """The notebook's loop, in a process of its own."""
    command = [sys.executable, str(NOTEBOOK), "--epochs", str(PLAIN_EPOCHS), "--seed", str(seed)]
    found = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout)
    return Learning(found["validation_accuracy"], found["training_seconds"])


def show(learned: dict[str, list[Learning]]) -> None:
    """A table, one line a contender."""
    table = Table(box=None, pad_edge=False)
    for title in ("contender", "seeds", "mean", "s.d.", "each", "s to best", f"s to {AIM:.2f}"):
        table.add_column(title, justify="left" if title == "contender" else "right")
    for name, runs in learned.items():
        best = [run.best for run in runs]
        to_aim = [seconds for run in runs if (seconds := run.aim_seconds) is not None]
        table.add_row(
            f"{name} (oversubscribed)" if runs[0].oversubscribed else name,
            str(len(runs)),
            f"{statistics.mean(best):.3f}",
            f"{statistics.stdev(best):.3f}" if len(best) > 1 else "–",
            " ".join(f"{accuracy:.3f}" for accuracy in best),
            f"{statistics.median(run.best_seconds for run in runs):.0f}",
            f"{statistics.median(to_aim):.0f}" if len(to_aim) == len(runs) else "–",
        )
    Console(width=120).print(table)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("contenders", nargs="*", help="PRESET:GLOBAL_BATCHxRANKS")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--runs-dir", type=Path, default=Path("runs-accuracy"))
    parser.add_argument("--notebook", action="store_true", help="the notebook's loop too, in turn with the others")
    asked = parser.parse_args()
    if "TFDS_DATA_DIR" not in os.environ:
        sys.exit("TFDS_DATA_DIR is not set: give the folder that holds tf_flowers")
    prepare = ["-m", "horovod_flowers.prepare", "--data.source", "tf_flowers"]
    subprocess.run([sys.executable, *prepare], check=True, stdout=sys.stderr)
    learned: dict[str, list[Learning]] = {}
    for seed in asked.seeds:
        if asked.notebook:
            learned.setdefault("notebook", []).append(run_notebook(seed))
        for contender in asked.contenders:
            learned.setdefault(contender, []).append(train(contender, seed, asked.runs_dir))
    show(learned)


if __name__ == "__main__":
    main()
