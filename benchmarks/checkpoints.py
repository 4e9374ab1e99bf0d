"""What checkpoints cost a training: the time that it waits for them, and how much slower it is with them.

python benchmarks/checkpoints.py --ranks 2 --steps 60 --repetitions 3

The flower CNN, whose checkpoint has 316 MB, trains in turn without checkpoints, with one at each of two epochs' ends,
and with one every ten steps as well. Waiting is what the run log says (checkpoint_seconds of each epoch); the slowdown
compares medians of training and waiting together, so it also holds what the writing takes from the cores.
"""

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from rich.console import Console
from rich.table import Table

from horovod_flowers.runlog.json_lines import read_lines
from horovod_flowers.runlog.records import EpochRecord

CONTENDERS = {
    "none": ["--no-checkpoint"],
    "every epoch": [],
    "every 10 steps": ["--checkpoint-steps", "10"],
}


def train(ranks: int, steps: int, options: list[str], folder: Path) -> tuple[float, float]:
    """Seconds of training, and seconds that it waited for checkpoints."""
    words = ["mpirun", "-np", str(ranks), "--bind-to", "none", sys.executable, "-m", "horovod_flowers.train"]
    words += ["--global-batch", "64", "--epochs", "2", "--steps", str(steps), "--no-validate"]
    words += ["--runs-dir", str(folder), "--name", "measured", "--overwrite", *options]
    subprocess.run(words, check=True, stdout=subprocess.DEVNULL)
    epochs = list(read_lines(folder / "measured" / "epochs.jsonl", EpochRecord))
    return sum(each.training_seconds for each in epochs), sum(each.checkpoint_seconds or 0.0 for each in epochs)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("--ranks", type=int, default=2)
    parser.add_argument("--steps", type=int, default=60, help="an epoch; the first steps of a run are slower")
    parser.add_argument("--repetitions", type=int, default=3)
    parser.add_argument("--folder", type=Path, help="where checkpoints are written (default: a temporary folder)")
    asked = parser.parse_args()
    measured: dict[str, list[tuple[float, float]]] = {name: [] for name in CONTENDERS}
    with tempfile.TemporaryDirectory(dir=asked.folder) as temporary:
        for _ in range(asked.repetitions):
            for name, options in CONTENDERS.items():
                measured[name].append(train(asked.ranks, asked.steps, options, Path(temporary)))
    table = Table(box=None, pad_edge=False, title=f"{asked.ranks} rank(s), {len(os.sched_getaffinity(0))} CPUs")
    for title in ("checkpoints", "training s", "waiting s", "waiting / all", "slower than none"):
        table.add_column(title, justify="left" if title == "checkpoints" else "right")
    without = statistics.median(training for training, _ in measured["none"])
    for name, found in measured.items():
        training, waiting = (statistics.median(column) for column in zip(*found, strict=True))
        whole = statistics.median(sum(each) for each in found)
        share, slower = waiting / (training + waiting), whole / without - 1
        table.add_row(name, f"{training:.2f}", f"{waiting:.3f}", f"{share:.2%}", f"{slower:+.1%}")
    Console(width=120).print(table)


if __name__ == "__main__":
    main()
