"""Predict emulated steps from those of fewer ranks, and measure them: how far a prediction can be trusted.

python benchmarks/predicted_against_measured.py --mbit 50,200,1000 --ranks 1,2,4,8 --output scaling-check

Runs a study on virtual nodes for each rate, each strategy and number of ranks, and has predict_scaling predict each
number of ranks from the smaller ones. Prints a table in Markdown, and what it comes to. Needs what emulation needs
(docs/emulation.md). A study that was interrupted goes on where it was.
"""

import argparse
import json
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

import yaml

from horovod_flowers.runlog.step_profile import step_profile_file

CLEAR = 0.1
"""By how much of its step the second best strategy has to be slower for the best one to be named."""


def job(arguments: argparse.Namespace, mbit: int, mesh: bool, runs: Path) -> dict[str, Any]:
    """A study's job file of one rate; `mesh`: of groups of two ranks, which needs an option of its own, and sleeps for
    the steps that the first study measured: else it were other work."""
    ranks = [int(word) for word in arguments.ranks.split(",")]
    options = {
        "per_rank_batch": arguments.rows,
        "steps": arguments.steps,
        "warmup_steps": 1,
        "threads": 1,
        "data": {"image_size": arguments.image_size},
    }
    profile = step_profile_file(runs, f"mbit{mbit}-fp32")
    of_mesh = {"model_parallel_size": 2, "emulate": {"profile": str(profile)}}
    return {
        "name": f"mbit{mbit}{'mesh' if mesh else ''}",
        "ranks": [count for count in ranks if not mesh or count >= 4],
        "strategies": ["mesh"] if mesh else arguments.strategies.split(","),
        "precisions": ["fp32"],
        "repetitions": 1,
        "collectives": not mesh,
        "network": {"nodes": max(ranks), "mbit": mbit, "shrink": arguments.shrink},
        "options": options | (of_mesh if mesh else {}),
    }


def held_out(arguments: argparse.Namespace, mbit: int) -> list[dict[str, Any]]:
    """Of one rate: each number of ranks that was measured, predicted from the smaller ones."""
    folder = Path(arguments.output) / f"{mbit}-mbit"
    folder.mkdir(parents=True, exist_ok=True)
    runs = folder / "runs"
    for mesh in (False, True) if arguments.mesh else (False,):
        path = folder / ("mesh.yaml" if mesh else "job.yaml")
        path.write_text(yaml.safe_dump(job(arguments, mbit, mesh, runs)), encoding="utf-8")
        study = ["horovod_flowers.study", str(path), "--emulate", "--runs-dir", str(runs)]
        subprocess.run([sys.executable, "-m", *study], check=False)  # a point that the gauge refuses is left out
    prediction = folder / "prediction"
    words = ["horovod_flowers.predict_scaling", "--runs-dir", str(runs), "--from-emulated", "--output", str(prediction)]
    subprocess.run([sys.executable, "-m", *words], check=True)
    rows = json.loads((prediction / "prediction.json").read_text(encoding="utf-8"))["held_out"]
    return [row | {"mbit": mbit} for row in rows]


def best_named(rows: list[dict[str, Any]]) -> list[tuple[int, int, str, str]]:
    """Rate, ranks, best strategy measured and predicted, wherever the best one is clearly so."""
    found = []
    for mbit, ranks in sorted({(row["mbit"], row["ranks"]) for row in rows}):
        here = [row for row in rows if (row["mbit"], row["ranks"]) == (mbit, ranks)]
        told = [row for row in here if row["predicted_seconds"] is not None]
        measured = sorted(here, key=lambda row: row["measured_seconds"])
        if not told or len(here) < 2 or measured[1]["measured_seconds"] < (1 + CLEAR) * measured[0]["measured_seconds"]:
            continue
        predicted = min(told, key=lambda row: row["predicted_seconds"])
        found.append((mbit, ranks, measured[0]["setting"], predicted["setting"]))
    return found


def print_table(rows: list[dict[str, Any]]) -> None:
    """In Markdown, and the errors by number of ranks."""
    print("\n| Mbit/s | ranks | strategy | from | measured s | predicted s | interval | error |")
    print("|---|---|---|---|---|---|---|---|")
    for row in rows:
        start = f"| {row['mbit']:,} | {row['ranks']} | {row['setting']} | {', '.join(map(str, row['from_ranks']))} | "
        if row["predicted_seconds"] is None:
            print(f"{start}{row['measured_seconds']:.3f} | – | {row['reason']} | – |")
        else:
            interval = f"{row['low_seconds']:.3f}–{row['high_seconds']:.3f}"
            print(f"{start}{row['measured_seconds']:.3f} | {row['predicted_seconds']:.3f} | ", end="")
            print(f"{interval}{'' if row['inside'] else ' (outside)'} | {row['error']:+.1%} |")
    predicted = [row for row in rows if row["predicted_seconds"] is not None]
    print()
    for ranks in sorted({row["ranks"] for row in predicted}):
        errors = [abs(row["error"]) for row in predicted if row["ranks"] == ranks]
        print(f"{ranks} ranks: error {statistics.median(errors):.1%} median, {max(errors):.1%} at most")
    inside = sum(row["inside"] for row in predicted)
    print(f"inside the interval: {inside} of {len(predicted)}")
    named = best_named(rows)
    right = sum(measured == said for *_, measured, said in named)
    print(f"best strategy, where it is faster by {CLEAR:.0%}: named rightly in {right} of {len(named)} settings")
    for mbit, ranks, measured, said in named:
        if measured != said:
            print(f"  {mbit} Mbit/s, {ranks} ranks: {measured} was fastest, {said} was predicted")


def main() -> None:
    """Run the studies and print what they come to."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mbit", default="50,200,1000", help="rates of the links, in megabits per second")
    parser.add_argument("--ranks", default="1,2,4,8")
    parser.add_argument("--strategies", default="allreduce,sharded,tensor")
    parser.add_argument("--no-mesh", dest="mesh", action="store_false", help="leave out meshes of groups of two ranks")
    parser.add_argument("--image-size", type=int, default=96, help="pixels, which decide the weights of the model")
    parser.add_argument("--rows", type=int, default=32, help="images of a step on each rank")
    parser.add_argument("--shrink", type=float, default=4.0, help="by which tensors and links are made smaller")
    parser.add_argument("--steps", type=int, default=6, help="of each run, the first of which is not timed")
    parser.add_argument("--output", default="scaling-check", help="folder of the runs and predictions")
    arguments = parser.parse_args()
    print_table([row for mbit in arguments.mbit.split(",") for row in held_out(arguments, int(mbit))])


if __name__ == "__main__":
    main()
