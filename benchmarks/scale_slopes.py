"""What grows with the number of ranks: measured in jobs of 4, 8 and 16 ranks, and carried on to 1,000 and 10,000.

python benchmarks/scale_slopes.py --ranks 4 8 16

Each job trains the flower CNN for some steps on small images. Counts and bytes do not depend on how many cores the
ranks share; times would, and none are taken. Looked at are what ranks tell each other outside of the steps, through the
communicators of horovod_flowers.ranks (objects as they are pickled), file operations of rank 0 and of the last rank
(strace, which has to be there), peak memory, the run's files, and the graph of a step that divides weights. A line
a + b N is fitted to each by least squares; what changes by less than 1 % over the jobs is taken as constant. All ranks
are on this one machine: what grows with the ranks of a node is said to be the node's.
"""

import argparse
import functools
import json
import os
import pickle
import resource
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path

PROJECT = Path(__file__).resolve().parents[1]
FAR = (1_000, 10_000)
LEAST_CHANGE = 0.01
TRACED = "%file,getdents64"
START = [sys.executable, "-m", "horovod_flowers.launcher"]
METHODS = (
    "allgather", "gather", "broadcast", "broadcast_array", "allreduce_sum", "allreduce_max", "start_allreduce_max",
    "receive", "receive_array", "gather_slices", "scatter_slices",
)  # fmt: skip
TRAINING = (
    "--epochs", "2", "--steps", "3", "--warmup-steps", "1", "--per-rank-batch", "2", "--data.image-size", "32",
    "--precision", "fp32", "--stall-seconds", "600",
)  # fmt: skip


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("--ranks", type=int, nargs="+", default=[4, 8, 16], help="one job each")
    parser.add_argument("--strategies", nargs="+", default=["allreduce", "sharded"], help="the first one is traced")
    parser.add_argument("--folder", type=Path, help="where the runs are written (default: the temporary folder)")
    options = parser.parse_args()
    if len(set(options.ranks)) < 2:
        raise SystemExit("scale_slopes.py: a slope needs at least two different numbers of --ranks")
    if shutil.which("strace") is None:
        raise SystemExit("scale_slopes.py: strace is not on PATH, and counts the file operations")
    found = graph_operations((*sorted(set(options.ranks)), *FAR))
    with tempfile.TemporaryDirectory(dir=options.folder) as name:
        for ranks in sorted(set(options.ranks)):
            for what, value in calls_alone(ranks, Path(name) / f"calls-{ranks}").items():
                found.setdefault(what, {})[ranks] = value
        prepare = [sys.executable, "-m", "horovod_flowers.prepare", "--data.image-size", "32"]
        prepare += ["--data.prepared-dir", str(Path(name) / "data")]
        subprocess.run(prepare, cwd=name, stdout=sys.stderr, check=True)
        for ranks in sorted(set(options.ranks)):
            for strategy in options.strategies:
                folder = Path(name) / f"{strategy}-{ranks}"
                print(f"training {strategy} over {ranks} ranks", file=sys.stderr, flush=True)
                job(ranks, strategy, folder, Path(name) / "data", traced=strategy == options.strategies[0])
                for what, value in looked_at(folder, ranks, strategy).items():
                    found.setdefault(what, {})[ranks] = value
    print_table(found, sorted(set(options.ranks)))


def job(ranks, strategy, folder, data, traced):
    """Train once; every rank leaves what it counted in `folder`."""
    folder.mkdir()
    rank = [sys.executable, str(Path(__file__).resolve()), "--as-rank"]
    words = [*START, "--ranks", str(ranks), "--oversubscribe", "--", *rank, str(int(traced))]
    environment = os.environ | {"PYTHONPATH": os.environ.get("PYTHONPATH", str(PROJECT)), "FLOWERS_OVERSUBSCRIBE": "1"}
    with open(folder / "log", "wb") as log:
        training = [*words, "--name", "run", "--strategy", strategy, *TRAINING, "--data.prepared-dir", str(data)]
        ended = subprocess.run(training, cwd=folder, env=environment, stdout=log, stderr=log, timeout=3000, check=False)
    if ended.returncode:
        raise SystemExit(f"a job of {ranks} ranks failed:\n{(folder / 'log').read_text(errors='replace')[-3000:]}")


def as_rank(traced, training):
    """One rank of a job: rank 0 and the last one under strace, if at all."""
    from horovod_flowers.launch.job_environment import JobEnvironment

    job = JobEnvironment.from_environment(os.environ)
    words = [sys.executable, str(Path(__file__).resolve()), "--counted", *training]
    if traced and job.rank in (0, job.size - 1):
        words = ["strace", "-f", "--seccomp-bpf", "-qq", "-e", f"trace={TRACED}", "-o", f"trace.{job.rank}", *words]
    os.execvp(words[0], words)


def counted(training):
    """Train, counting what this rank is told by others, and write it down."""
    from horovod_flowers import train
    from horovod_flowers.launch.job_environment import JobEnvironment
    from horovod_flowers.ranks.mpi import MpiCommunicator

    calls, received = Counter(), Counter()
    for method in METHODS:
        if hasattr(MpiCommunicator, method):
            setattr(MpiCommunicator, method, counting(getattr(MpiCommunicator, method), method, calls, received))
    train.main(training)
    rank = JobEnvironment.from_environment(os.environ).rank
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024  # Linux gives KiB
    reads = dict(line.split(": ") for line in Path("/proc/self/io").read_text().splitlines())
    told = {"calls": calls, "received": received, "peak_bytes": peak, "reads": int(reads["syscr"])}
    Path(f"rank.{rank}").write_text(json.dumps(told))


def counting(call, method, calls, received):
    """The same call, whose bytes from other ranks are added up: objects as pickled, arrays as they are."""

    @functools.wraps(call)
    def wrapped(communicator, *arguments, **named):
        result = call(communicator, *arguments, **named)
        calls[method] += 1
        if method == "allgather" or (method == "gather" and result is not None):
            others = [value for rank, value in enumerate(result) if rank != communicator.rank]
            received[method] += sum(len(pickle.dumps(value, protocol=5)) for value in others)
        elif method in ("broadcast", "receive"):
            received[method] += len(pickle.dumps(result, protocol=5))
        elif method != "gather":
            arrays = [value for value in arguments if hasattr(value, "nbytes")]
            received[method] += arrays[-1].nbytes if arrays else 0
        return result

    return wrapped


def calls_alone(ranks, folder):
    """Bytes that each of a start's calls brings to the last rank, and messages of rank 0; by what makes the call."""
    folder.mkdir()
    words = [*START, "--ranks", str(ranks), "--oversubscribe", "--"]
    words += [sys.executable, str(Path(__file__).resolve()), "--calls-alone"]
    environment = os.environ | {"PYTHONPATH": os.environ.get("PYTHONPATH", str(PROJECT))}
    subprocess.run(words, cwd=folder, env=environment, stdin=subprocess.DEVNULL, timeout=600, check=True)
    first, last = (json.loads((folder / f"calls.{rank}").read_text()) for rank in (0, ranks - 1))
    found = {f"bytes told to the last rank: {what}": told["bytes"] for what, told in last.items()}
    what = "clocks compared"
    return found | {f"messages that rank 0 receives: {what}": first[what]["receives"]}


def call_alone():
    """What `calls_alone` has every rank do."""
    from horovod_flowers.launch.job_environment import JobEnvironment
    from horovod_flowers.preflight.rank_facts import clock_offset_seconds
    from horovod_flowers.ranks.mpi import MpiCommunicator
    from horovod_flowers.ranks.stall_watch import StallWatch
    from horovod_flowers.ranks.startup import connect, take_cores

    calls, received = Counter(), Counter()
    for method in METHODS:
        if hasattr(MpiCommunicator, method):
            setattr(MpiCommunicator, method, counting(getattr(MpiCommunicator, method), method, calls, received))
    ranks = connect(JobEnvironment.from_environment(os.environ), 1, "none")
    found = {}
    with StallWatch("scale_slopes") as watch:
        for what, call in {
            "the largest of a number": lambda: ranks.allreduce_max(1.0),
            "no rank has found a mistake": lambda: ranks.raise_on_all(None),
            "who is on this machine": lambda: take_cores(ranks, "none", 1),
            "the stall watch begins": lambda: watch.begin(ranks, Path("stall"), 600),
            "clocks compared": lambda: clock_offset_seconds(ranks),
        }.items():
            calls.clear()
            received.clear()
            call()
            found[what] = {"bytes": sum(received.values()), "receives": calls["receive"]}
    Path(f"calls.{ranks.rank}").write_text(json.dumps(found))


def looked_at(folder, ranks, strategy):
    """Numbers of one job, by what they are."""
    told = [json.loads((folder / f"rank.{rank}").read_text()) for rank in range(ranks)]
    run = folder / "runs" / "run"
    objects = ("allgather", "gather")
    found = {
        f"{strategy}: bytes of objects that rank 0 is told": sum(told[0]["received"].get(name, 0) for name in objects),
        f"{strategy}: the same, the last rank": sum(told[-1]["received"].get(name, 0) for name in objects),
        f"{strategy}: calls outside of steps, each rank": sum(told[-1]["calls"].values()),
        f"{strategy}: peak memory of rank 0, bytes": told[0]["peak_bytes"],
        f"{strategy}: peak memory of the last rank, bytes": told[-1]["peak_bytes"],
        f"{strategy}: files of the run": sum(path.is_file() for path in run.rglob("*")),
        f"{strategy}: bytes of steps/, each rank": sum(path.stat().st_size for path in run.glob("steps/*")) // ranks,
        f"{strategy}: bytes of environment.json": (run / "environment.json").stat().st_size,
    }
    for rank, who in ((0, "rank 0"), (ranks - 1, "the last rank")):
        if (folder / f"trace.{rank}").exists():
            for place, number in file_operations(folder / f"trace.{rank}", folder).items():
                found[f"{strategy}: file operations of {who}, {place}"] = number
            found[f"{strategy}: reads of {who}"] = told[rank]["reads"]
    return found


def file_operations(trace, folder):
    """Of one rank, by where the file is."""
    places = {
        "environment": (sys.prefix, sys.base_prefix, str(Path(sys.base_prefix).resolve())),
        "package": (os.environ.get("PYTHONPATH", str(PROJECT)).split(":")[0] + "/horovod_flowers",),
        "runs and data": (str(folder.parent), "runs", "."),
    }
    found = Counter(dict.fromkeys((*places, "of them not there", "the node's own"), 0))
    with open(trace, errors="replace") as lines:
        for line in lines:
            path = line.partition('"')[2].partition('"')[0] or line.partition("<")[2].partition(">")[0]
            if not path:
                continue
            place = next((name for name, roots in places.items() if path.startswith(roots)), "the node's own")
            found[place] += 1
            found["of them not there"] += place == "environment" and "ENOENT" in line
    return {("environment, not there" if name == "of them not there" else name): found[name] for name in found}


def graph_operations(sizes):
    """Of the packing of twenty weights of 50,000 values in a step of strategy sharded: at any number of ranks."""
    import tensorflow as tf

    from horovod_flowers.strategy.layout import EqualSlices
    from horovod_flowers.strategy.packing import gathered, scattered

    def packing(ranks):
        slices = [EqualSlices(50_000, ranks)] * 20

        @tf.function
        def step(*tensors):
            parts = scattered(list(tensors), slices, 1, lambda flat: flat[: flat.shape[0] // ranks])
            return gathered(parts, slices, lambda flat: tf.tile(flat, [ranks]))

        return step.get_concrete_function(*[tf.TensorSpec([50_000])] * 20).graph

    found = {ranks: len(packing(ranks).get_operations()) for ranks in sizes}
    return {"sharded: operations of the graph that packs 20 weights": found}


def print_table(found, sizes):
    import numpy as np

    heads = [f"N={ranks}" for ranks in sizes]
    print(f"{'':68} " + " ".join(f"{head:>12}" for head in (*heads, "each rank", *(f"at {far:,}" for far in FAR))))
    for what, values in found.items():
        slope, start = np.polyfit(sizes, [values[ranks] for ranks in sizes], 1)
        mean = sum(values[ranks] for ranks in sizes) / len(sizes)
        if abs(slope) * (sizes[-1] - sizes[0]) < LEAST_CHANGE * mean:
            slope, start = 0.0, mean
        # What falls is not carried on: it would be less than nothing.
        far = [values.get(ranks, start + slope * (ranks if slope >= 0 else sizes[-1])) for ranks in FAR]
        numbers = [f"{values[ranks]:,}" for ranks in sizes] + [f"{slope:+,.1f}"] + [f"{value:,.0f}" for value in far]
        print(f"{what:68} " + " ".join(f"{number:>12}" for number in numbers), flush=True)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--as-rank"]:
        as_rank(sys.argv[2] == "1", sys.argv[3:])
    elif sys.argv[1:2] == ["--counted"]:
        counted(sys.argv[2:])
    elif sys.argv[1:2] == ["--calls-alone"]:
        call_alone()
    else:
        main()
