"""CPU time of a training step of the flower CNN (forward and backward pass, one thread) in several environments.

    ./flowers run true && ./flowers --tensorflow 2.21 run true
    ./flowers run python benchmarks/step_cpu_time.py .venv .venv-tensorflow-2.21

They take turns. CPU time rather than wall time, so that other jobs of the machine count little.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

PROJECT = Path(__file__).resolve().parents[1]
PRECISIONS = ("fp32", "bf16")
BATCH = 32


def measure(steps):
    """Milliseconds of a step in each precision, as JSON: {"fp32": [...], "bf16": [...], "tensorflow": "2.18.1"}."""
    os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
    import keras
    import numpy as np
    import tensorflow as tf

    from horovod_flowers.model.registry import flower_cnn

    tf.config.threading.set_intra_op_parallelism_threads(1)
    tf.config.threading.set_inter_op_parallelism_threads(1)
    model = flower_cnn(180, 5)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    images = tf.constant(np.random.default_rng(0).uniform(0, 255, (BATCH, 180, 180, 3)).astype(np.float32))
    labels = tf.constant(np.arange(BATCH) % 5)
    found = {"tensorflow": tf.__version__}
    for precision in PRECISIONS:
        tf.config.optimizer.set_experimental_options({"auto_mixed_precision_onednn_bfloat16": precision == "bf16"})

        @tf.function
        def step():
            with tf.GradientTape() as tape:
                value = loss(labels, model(images, training=True))
            return [tf.reduce_sum(gradient) for gradient in tape.gradient(value, model.trainable_weights)]

        found[precision] = []
        for number in range(2 + steps):
            begun = time.process_time()
            for gradient in step():
                gradient.numpy()
            if number >= 2:
                found[precision].append(1000 * (time.process_time() - begun))
    print(json.dumps(found))


def in_environment(folder, steps):
    words = [str(Path(folder, "bin", "python")), __file__, "--steps", str(steps), "--measure"]
    variables = {**os.environ, "PYTHONPATH": str(PROJECT)}
    ended = subprocess.run(words, env=variables, capture_output=True, text=True, check=False)
    if ended.returncode != 0:
        raise SystemExit(f"{folder}: {ended.stderr}")
    found = json.loads(ended.stdout.splitlines()[-1])
    medians = [f"{precision} {statistics.median(found[precision]):.0f} ms" for precision in PRECISIONS]
    print(f"{found['tensorflow']}: {', '.join(medians)}", file=sys.stderr, flush=True)
    return found


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("environments", nargs="*", help="folders; ratios are to the first one's steps")
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--measure", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        measure(options.steps)
        return
    found = [[in_environment(each, options.steps) for each in options.environments] for _ in range(options.turns)]
    for precision in PRECISIONS:
        medians = [[statistics.median(each[precision]) for each in turn] for turn in found]
        for number, environment in enumerate(options.environments):
            ratios = ", ".join(f"{turn[number] / turn[0]:.3f}" for turn in medians)
            middle = statistics.median(turn[number] for turn in medians)
            version = found[0][number]["tensorflow"]
            print(
                f"{precision}, TensorFlow {version} ({environment}): {middle:.0f} ms; to the first, by turns: {ratios}"
            )


if __name__ == "__main__":
    sys.exit(main())
