"""Predict measured collective calls from those over fewer ranks: how far the model of calls can be trusted.

python benchmarks/calls_predicted.py scaling-check/*/runs --fitted 2,4

Reads the records of collective calls of each folder of runs (a study with `collectives: true`, or what
predicted_against_measured.py made), fits the model of calls to those over the given numbers of ranks, and prints each
size of call over more ranks beside what the model says of it. The error is of medians.
"""

import argparse
import statistics
from collections import defaultdict
from pathlib import Path

from horovod_flowers.runlog.collectives import Collectives, read_collectives
from horovod_flowers.scaling_model.calibration import calibrate, shrink_of
from horovod_flowers.scaling_model.call_model import CallModel
from horovod_flowers.scaling_model.step_tasks import Call, RankGroup

NAMED = 1_000_000
"""Bytes of a call from which on its messages, not its latency, are most of it on a network of 1 Gbit/s."""


def print_record(name: str, record: Collectives, model: CallModel) -> dict[str, list[float]]:
    """The rows of one number of ranks. Returns the errors, by kind of size."""
    errors = defaultdict(list)
    ranks = record.world_size
    for measured in record.measured:
        call = Call(measured.operation, measured.bytes, RankGroup(ranks))
        seconds, predicted = statistics.median(measured.seconds), model.alone(call, ranks)
        error = predicted / seconds - 1
        errors["large" if measured.bytes >= NAMED else "small"].append(error)
        print(
            f"| {name} | {ranks} | {measured.operation}, {model.algorithm(call)} | {measured.bytes / 1e6:.3g} | "
            f"{seconds * 1000:.1f} | {predicted * 1000:.1f} | {error:+.1%} |"
        )
    return errors


def main() -> None:
    """Print the tables, and what they come to."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", type=Path, help="folders of runs, each of one network")
    parser.add_argument("--fitted", default="2,4", help="numbers of ranks over which calls are fitted")
    arguments = parser.parse_args()
    fitted = {int(word) for word in arguments.fitted.split(",")}
    found: dict[tuple[int, str], list[float]] = defaultdict(list)
    print("| runs | ranks | call | MB | measured ms | predicted ms | error |\n|---|--:|---|--:|--:|--:|--:|")
    for folder in arguments.runs:
        records = [read_collectives(path) for path in sorted((folder / ".collectives").glob("*.json"))]
        within = [each for each in records if each.core_gauge is None or each.core_gauge.problem is None]
        calibration = calibrate([record for record in within if record.world_size in fitted])
        for record in sorted(within, key=lambda record: record.world_size):
            if record.world_size in fitted:
                continue
            name = f"{folder.parent.name or folder.name}, 1/{shrink_of(record):g}"
            for size, errors in print_record(name, record, calibration.model).items():
                found[record.world_size, size] += errors
    print()
    for (ranks, size), errors in sorted(found.items()):
        sizes = [abs(error) for error in errors]
        what = f"calls of at least {NAMED / 1e6:g} MB" if size == "large" else "smaller calls"
        print(f"{ranks} ranks, {what}: error {statistics.median(sizes):.1%} median, {max(sizes):.1%} at most")


if __name__ == "__main__":
    main()
