"""A program for N ranks: combines the gradients of an epoch's first and last global batch, evaluates one checkpoint,
and writes all of it from rank 0.

    mpirun -np N python -m tests.parallel.gradient_and_accuracy CHECKPOINT OUTPUT.npz TRAIN-OPTION...
"""

import os
import sys
from pathlib import Path

import numpy as np

from horovod_flowers.command_line import parse
from horovod_flowers.config import RunConfig
from horovod_flowers.launch import Launch, error_boundary
from horovod_flowers.ranks import connect, start_tensorflow
from horovod_flowers.train import open_data, start_horovod_if_needed


def main() -> None:
    checkpoint_path, output, *options = sys.argv[1:]
    with error_boundary("numbers"):
        config = parse(RunConfig, "numbers", "", options)
        ranks = connect(Launch.from_environment(os.environ), 1, "auto")
        prepared, images = open_data(config, ranks)
        start_tensorflow(ranks, 1)
        ranks = start_horovod_if_needed(config, ranks)
        import tensorflow as tf

        from horovod_flowers import checkpoint
        from horovod_flowers.data.batches import evaluation_batches, training_batches
        from horovod_flowers.training import Training

        training = Training(config, ranks, prepared, images, config.strategy, "fp32")
        tensors = checkpoint.load(Path(checkpoint_path), training.state.shapes)[0] if ranks.rank == 0 else None
        training.state.share(tensors)
        batches = training_batches(
            prepared,
            images.training,
            global_batch=training.global_batch,
            rank=ranks.rank,
            size=ranks.size,
            seed=config.seed,
            epoch=1,
            augmentation=None,
        )
        first, *_, last = batches

        @tf.function
        def combined(images: tf.Tensor, labels: tf.Tensor, weights: tf.Tensor, shares: tf.Tensor) -> list[tf.Tensor]:
            _, _, gradients = training.step.local_gradients(images, labels, weights, shares)
            return training.strategy.combine(gradients)

        numbers = {}
        for name, batch in (("first", first), ("last", last)):
            shares = np.array([ranks.size / batch.global_images, 1], np.float32)
            for k, gradient in enumerate(combined(batch.images, batch.labels, batch.weights, shares)):
                numbers[f"{name}.{k}"] = gradient.numpy()
        evaluation = training._evaluate(
            evaluation_batches(prepared, images.validation, batch=5, rank=ranks.rank, size=ranks.size)
        )
        if ranks.rank == 0:
            counts = [evaluation.correct, evaluation.images, evaluation.loss]
            np.savez(output, evaluation=np.array(counts), **numbers)
        ranks.barrier()


if __name__ == "__main__":
    main()
