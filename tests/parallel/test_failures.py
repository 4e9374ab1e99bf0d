"""One rank that fails ends the whole job with its message; one that is killed too."""

import os
import signal
import subprocess
import time
from typing import Any

import psutil
import pytest

from tests.conftest import TINY, Workplace, clean_environment, mpirun

SOUND_CALLS = 2
"""More than a model is run for a look at it, before training."""


def failing_on_rank_1(image_size: int, classes: int) -> Any:
    """A user's model whose layer breaks on one rank, in the middle of a step."""
    import keras
    import tensorflow as tf

    from tests.single.test_model import wide

    calls = 0

    def break_one(images: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls > SOUND_CALLS and os.environ.get("OMPI_COMM_WORLD_RANK") == "1":
            raise ZeroDivisionError("one rank is broken")
        return images

    class Broken(keras.layers.Layer):
        def call(self, inputs: Any) -> Any:
            outputs = tf.numpy_function(break_one, [inputs], tf.float32)
            return tf.ensure_shape(outputs, inputs.shape)

        def compute_output_spec(self, inputs: Any) -> Any:
            return keras.KerasTensor(inputs.shape, inputs.dtype)

    return keras.Sequential([keras.layers.Input((image_size, image_size, 3)), Broken(), wide(image_size, classes)])


def test_an_exception_on_one_rank_ends_the_job_with_its_message(workplace: Workplace) -> None:
    started = time.monotonic()
    ended = workplace.train("--model.name", "tests.parallel.test_failures:failing_on_rank_1", "--name", "f", ranks=2)
    assert ended.status not in (0, 2)
    assert "one rank is broken" in ended.stderr
    assert "rank 1 on " in ended.stderr
    assert time.monotonic() - started < 120  # far below the stall limit that would end it otherwise
    assert not (workplace.folder / "runs" / "f" / "result.json").exists()


def ranks_below(process: psutil.Process) -> list[psutil.Process]:
    children = process.children(recursive=True)
    return [child for child in children if "horovod_flowers.train" in child.cmdline()]


def test_a_killed_rank_ends_the_job_and_leaves_no_process(workplace: Workplace) -> None:
    words = ["python", "-m", "horovod_flowers.train", "--data.prepared-dir", str(workplace.prepared), *TINY]
    log = workplace.folder / "output"
    with open(log, "wb") as output:
        job = subprocess.Popen(
            mpirun(2, *words, "--epochs", "1000", "--no-checkpoint", "--name", "k"),
            cwd=workplace.folder,
            env=clean_environment(),
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            deadline = time.monotonic() + 300
            while b"epoch 2/1000" not in log.read_bytes():
                assert job.poll() is None, log.read_text()
                assert time.monotonic() < deadline, log.read_text()
                time.sleep(0.2)
            ranks = ranks_below(psutil.Process(job.pid))
            assert len(ranks) == 2
            ranks[1].send_signal(signal.SIGKILL)
            assert job.wait(timeout=60) != 0
        finally:
            if job.poll() is None:
                os.killpg(job.pid, signal.SIGKILL)
                pytest.fail("the job went on without its rank")
    _, alive = psutil.wait_procs(ranks, timeout=30)
    assert [process for process in alive if process.status() != psutil.STATUS_ZOMBIE] == []
