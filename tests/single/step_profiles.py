"""Step profiles with known times."""

from typing import Any

from horovod_flowers.config.options import Effect, names_of, options_of
from horovod_flowers.config.run import RunConfig
from horovod_flowers.runlog.step_profile import SCHEMA, ProfiledBatch, ProfiledDense, ProfiledWeight, StepProfile


def weight(path: str, *shape: int, dense: bool = False, whole: str | None = None) -> ProfiledWeight:
    elements = 1
    for size in shape:
        elements *= size
    return ProfiledWeight(path=path, shape=list(shape), elements=elements, dense=dense, whole=whole)


def profile(**fields: Any) -> StepProfile:
    """Of a convolution, a large Dense layer and a small one, with 8 images on a rank: 0.1 s forward, 0.2 s backward,
    0.1 s update."""
    options = {name: options_of(RunConfig)[name].default for name in names_of(RunConfig, Effect.WORK)}
    large = ProfiledDense(
        kernel=2,
        layer="large",
        rows_per_image=1,
        input_ready_seconds=0.07,
        output_ready_seconds=0.09,
        output_gradient_ready_seconds=0.12,
        input_gradient_ready_seconds=0.14,
    )
    small = ProfiledDense(
        kernel=4,
        layer="small",
        rows_per_image=1,
        input_ready_seconds=0.09,
        output_ready_seconds=0.1,
        output_gradient_ready_seconds=0.105,
        input_gradient_ready_seconds=0.115,
    )
    batch = ProfiledBatch(
        rows=8,
        step_seconds=[0.4, 0.41, 0.39],
        forward_seconds=0.1,
        gradient_ready_seconds=[0.29, 0.28, 0.17, 0.125, 0.112, 0.11],
        gradients_seconds=0.3,
        update_seconds=0.1,
        dense=[large, small],
    )
    found: dict[str, Any] = {
        "schema": SCHEMA,
        "model": "flower_cnn",
        "options": options,
        "classes": 5,
        "precision": "fp32",
        "threads": 1,
        "clips_by_norm": False,
        "synchronised": [],
        "weights": [
            weight("net/conv/kernel", 3, 3, 3, 512),
            weight("net/conv/bias", 512),
            weight("net/large/kernel", 4096, 256, dense=True),
            weight("net/large/bias", 256),
            weight("net/small/kernel", 256, 5, dense=True),
            weight("net/small/bias", 5),
        ],
        "non_trainable_elements": 7,
        "batches": [batch],
        "timestamp_seconds": 0.0001,
        "host": "node",
        "cpu_model": "Test CPU",
        "gpu": None,
        "versions": {},
        "started_utc": "2026-01-01T00:00:00+00:00",
        "command": [],
    }
    return StepProfile(**(found | fields))
