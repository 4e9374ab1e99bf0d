"""Photos a second of `predict` on two ranks of one core each, against Keras' model.predict in one process.

python benchmarks/predict.py --run runs/NAME --photos 2000 --repetitions 5

Drawn photos, as JPEG of 320 x 240 pixels, are decoded and classified in turn by: one process on one core, as a person
would write it (Keras' load_img a photo, model.predict a batch of 32, fp32); one process that may use all cores;
`python -m horovod_flowers.predict` on one rank of one core; and on two. Seconds are those of decoding and predicting,
after imports, loading and one batch to warm up. The ratios are those of medians.
"""

import argparse
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from PIL import Image
from rich.console import Console
from rich.table import Table

BATCH = 32
SHAPE = (320, 240)


def write_photos(folder: Path, count: int) -> list[str]:
    """Draw photos and save them; their paths."""
    from horovod_flowers.data.synthetic import draw

    paths = []
    for number in range(count):
        image = draw(0, number, 180)
        path = folder / f"{number:06d}.jpg"
        Image.fromarray(image).resize(SHAPE).save(path, quality=90)
        paths.append(str(path))
    return paths


def keras_seconds(run: str, folder: Path, cores: list[int]) -> float:
    """Seconds of the usual loop, in a process of its own on those cores."""
    command = [sys.executable, __file__, "--run", run, "--keras-loop", str(folder)]
    environment = os.environ | {"TF_CPP_MIN_LOG_LEVEL": "3"}
    ended = subprocess.run(
        ["taskset", "-c", ",".join(map(str, cores)), *command],
        check=True,
        env=environment,
        stdout=subprocess.PIPE,
        text=True,
    )
    return float(json.loads(ended.stdout.splitlines()[-1])["seconds"])


def keras_loop(run: str, folder: Path) -> None:
    """Load, decode and predict as most people do; prints the seconds."""
    import keras
    import tensorflow as tf

    from horovod_flowers.inference.trained_model import load_run, read_run_config
    from horovod_flowers.runlog.run_folder import RunFolder

    cores = len(os.sched_getaffinity(0))
    tf.config.threading.set_intra_op_parallelism_threads(cores)
    tf.config.threading.set_inter_op_parallelism_threads(2)
    where = RunFolder(Path(run))
    trained = load_run(where, "best", read_run_config(where))
    size, model = (trained.image_size, trained.image_size), trained.keras_model
    paths = sorted(str(path) for path in folder.iterdir())
    model.predict(np.zeros((BATCH, *size, 3), np.float32), verbose=0)
    started = time.monotonic()
    for first in range(0, len(paths), BATCH):
        images = [
            keras.utils.img_to_array(keras.utils.load_img(path, target_size=size, interpolation="bilinear"))
            for path in paths[first : first + BATCH]
        ]
        model.predict(np.stack(images), verbose=0)
    print(json.dumps({"seconds": time.monotonic() - started}))


def our_seconds(run: str, folder: Path, ranks: int, output: Path) -> float:
    """Seconds that predict says it took, on ranks of one core each."""
    launcher = ["mpirun", "-np", str(ranks), "--bind-to", "none"]
    words = [str(folder), "--run", run, "--output", str(output), "--threads", "1"]
    command = [*launcher, sys.executable, "-m", "horovod_flowers.predict", *words]
    ended = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    found = re.search(r"in ([0-9.]+) s, ([0-9.]+) photos/s, decoding included: ", ended.stdout)
    if found is None:
        sys.exit(f"predict did not tell its time, or its ranks shared cores:\n{ended.stdout}")
    return len(list(folder.iterdir())) / float(found[2])


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("--run", required=True, help="folder of a trained run")
    parser.add_argument("--photos", type=int, default=2000)
    parser.add_argument("--repetitions", type=int, default=5)
    parser.add_argument("--keras-loop", type=Path, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.keras_loop is not None:
        keras_loop(asked.run, asked.keras_loop)
        return
    cores = sorted(os.sched_getaffinity(0))
    with tempfile.TemporaryDirectory() as temporary:
        folder, output = Path(temporary) / "photos", Path(temporary) / "out.csv"
        folder.mkdir()
        write_photos(folder, asked.photos)
        contenders = {
            "model.predict, one core": lambda: keras_seconds(asked.run, folder, cores[:1]),
            f"model.predict, {len(cores)} cores": lambda: keras_seconds(asked.run, folder, cores),
            "predict, 1 rank x 1 core": lambda: our_seconds(asked.run, folder, 1, output),
            "predict, 2 ranks x 1 core": lambda: our_seconds(asked.run, folder, 2, output),
        }
        seconds: dict[str, list[float]] = {name: [] for name in contenders}
        for _ in range(asked.repetitions):
            for name, measure in contenders.items():
                seconds[name].append(measure())
    table = Table(box=None, pad_edge=False)
    for title in ("contender", "photos/s", "each", "2 ranks / this"):
        table.add_column(title, justify="left" if title == "contender" else "right")
    ours = statistics.median(seconds["predict, 2 ranks x 1 core"])
    for name, found in seconds.items():
        rates = [asked.photos / value for value in found]
        each = " ".join(f"{rate:.0f}" for rate in rates)
        median = statistics.median(found)
        table.add_row(name, f"{asked.photos / median:.0f}", each, f"{median / ours:.2f}")
    Console(width=120).print(table)


if __name__ == "__main__":
    main()
