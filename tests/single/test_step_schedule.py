"""The calls of a step, its tasks, and when they run."""

from collections.abc import Sequence

import pytest

from horovod_flowers.config.choices import StrategyName
from horovod_flowers.runlog.step_profile import ProfiledBatch, ProfiledDense
from horovod_flowers.scaling_model.schedule import Coordination, ScheduledStep, schedule
from horovod_flowers.scaling_model.step_tasks import Call, RankGroup, Task
from horovod_flowers.scaling_model.steps import DividedStep, step_tasks
from horovod_flowers.scaling_model.stragglers import expected_largest, straggler_seconds
from horovod_flowers.strategy.call_contents import MOST_BYTES, calls_of
from horovod_flowers.strategy.communication_volume import DenseShape, volume_per_step
from horovod_flowers.strategy.step_calls import (
    StepWeight,
    kernels_by_factors,
    large_kernels,
    step_calls,
    volume_of,
)

DENSE = DenseShape(20_000, 512)
WEIGHTS = [
    StepWeight(900), StepWeight(32), StepWeight(600_000), StepWeight(64, whole=True), StepWeight(5_000, whole=True),
    StepWeight(DENSE.elements, DENSE), StepWeight(512), StepWeight(2_560), StepWeight(5),
]  # fmt: skip
KERNEL, IMAGES = 5, 16
NOTHING = Coordination(0.0, 0.0)


def packed(numbers: Sequence[int], packs: int) -> list[int]:
    elements = [WEIGHTS[number].elements for number in numbers]
    return [sum(elements[k] for k in positions) for positions in calls_of(elements, packs // 4)]


@pytest.mark.parametrize("packs", [0, MOST_BYTES])
@pytest.mark.parametrize(
    ("strategy", "group", "layers"),
    [
        ("allreduce", None, []), ("allreduce", None, [KERNEL]), ("sharded", None, []), ("sharded", None, [KERNEL]),
        ("tensor", None, [KERNEL]), ("mesh", 2, [KERNEL]), ("mesh", 4, [KERNEL]), ("none", None, []),
    ],
)  # fmt: skip
def test_the_calls_are_those_that_the_strategies_make(
    strategy: StrategyName, group: int | None, layers: list[int], packs: int
) -> None:
    """Added up, they are what `volume_per_step` says, which the ranks' counted bytes meet."""
    whole = [k for k in range(len(WEIGHTS)) if k not in layers]
    divided = []
    if strategy == "sharded":
        divided = [k for k in whole if WEIGHTS[k].elements >= 4096 and not WEIGHTS[k].whole]
        whole = [k for k in whole if k not in divided]
    expected = volume_per_step(
        strategy, ranks=8, images=IMAGES, small=packed(whole, packs), divided=packed(divided, packs),
        layers=[DENSE] * len(layers), factor_value_bytes=2, factored=True, group=group,
    )  # fmt: skip
    calls = step_calls(
        strategy, WEIGHTS, ranks=8, images=IMAGES, layers=layers, group=group, factor_value_bytes=2, packs_bytes=packs
    )
    found = volume_of(calls)
    assert {(e.operation, e.ranks, e.calls, round(e.bytes_sent)) for e in found} == {
        (e.operation, e.ranks, e.calls, round(e.bytes_sent)) for e in expected
    }


def test_factors_are_chosen_by_bytes_and_ranks() -> None:
    large = large_kernels(WEIGHTS, 1_000_000)
    assert large == [KERNEL]

    def chosen(ranks: int, how: str) -> list[int]:
        return kernels_by_factors(
            WEIGHTS, large, images=IMAGES, ranks=ranks, dense_gradients=how,  # type: ignore[arg-type]
            factor_value_bytes=4, rows_only=False,
        )  # fmt: skip

    assert (chosen(8, "auto"), chosen(64, "auto"), chosen(64, "factors")) == ([KERNEL], [], [KERNEL])
    assert (chosen(8, "reduced"), chosen(30_000, "factors")) == ([], [])


def run(tasks: Sequence[Task], seconds: float, coordination: Coordination = NOTHING) -> ScheduledStep:
    return schedule(tasks, [0.0 if task.call is None else seconds for task in tasks], coordination)


def call(*after: int) -> Task:
    return Task("call", after, call=Call("allreduce", 1.0, RankGroup(2)))


def test_a_call_is_hidden_behind_what_does_not_wait_for_it() -> None:
    tasks = [Task("one", (), 1.0), call(0), Task("two", (), 1.0), Task("update", (1, 2), 0.5)]
    assert run(tasks, 0.7).seconds == pytest.approx(2.5)
    found = run(tasks, 1.4)
    assert found.seconds == pytest.approx(2.9)
    assert found.exposed_seconds == pytest.approx(0.4)
    assert found.nothing_hidden == pytest.approx(3.9)
    assert found.all_hidden == pytest.approx(2.5)


def test_calls_take_turns_and_computing_goes_on_with_what_is_ready() -> None:
    tasks = [
        Task("a", (), 1.0),
        call(0),
        call(0),
        Task("b", (1,), 1.0),
        Task("c", (), 1.0),
        Task("end", (2, 3, 4), 0.0),
    ]
    found = run(tasks, 2.0)
    assert found.starts[1:5] == (1.0, 3.0, 3.0, 1.0)  # c before b, which waits
    assert found.seconds == pytest.approx(5.0)


def test_calls_wait_for_horovods_cycle() -> None:
    """The first finds the thread asleep, for half a cycle; what is ready after it looked waits for the next cycle."""
    tasks = [Task("a", (), 1.0), call(0), Task("b", (), 0.3), call(2)]
    found = run(tasks, 0.1, Coordination(cycle_seconds=1.0, seconds=0.05))
    assert found.starts[1] == pytest.approx(1.55)
    assert found.starts[3] == pytest.approx(1.65)  # both were there when it looked
    late = [Task("a", (), 1.0), call(0), Task("b", (), 0.8), call(2)]
    assert run(late, 0.1, Coordination(1.0, 0.05)).starts[3] == pytest.approx(2.55)


def test_a_task_that_waits_for_a_later_one_is_refused() -> None:
    with pytest.raises(ValueError, match=r"task 0 \(one\) waits for \(1,\)"):
        run([Task("one", (1,), 1.0), call()], 1.0)


BATCH = ProfiledBatch(
    rows=IMAGES,
    step_seconds=[1.2],
    forward_seconds=0.4,
    gradient_ready_seconds=[1.0, 0.95, 0.9, 0.85, 0.8, 0.7, 0.55, 0.5, 0.45],
    gradients_seconds=1.0,
    update_seconds=0.2,
    dense=[
        ProfiledDense(
            kernel=KERNEL, layer="dense", rows_per_image=1, input_ready_seconds=0.25, output_ready_seconds=0.35,
            output_gradient_ready_seconds=0.53, input_gradient_ready_seconds=0.62,
        )
    ],
)  # fmt: skip


def tasks_of(strategy: StrategyName, ranks: int, group: int = 1, layers: Sequence[int] = ()) -> list[Task]:
    calls = step_calls(strategy, WEIGHTS, ranks=ranks, images=IMAGES, layers=layers, group=group)
    return step_tasks(DividedStep(strategy, ranks, calls, layers, group), WEIGHTS, BATCH)


@pytest.mark.parametrize(
    ("strategy", "group", "layers"),
    [("allreduce", 1, ()), ("sharded", 1, (KERNEL,)), ("tensor", 8, (KERNEL,)), ("mesh", 2, (KERNEL,))],
)
def test_computing_is_that_of_one_rank_but_for_what_is_divided(
    strategy: StrategyName, group: int, layers: tuple[int, ...]
) -> None:
    found = run(tasks_of(strategy, 8, group, layers), 0.0)
    elements = sum(weight.elements for weight in WEIGHTS)
    divided = {"sharded": DENSE.elements + 600_000, "allreduce": 0}.get(strategy, DENSE.elements)
    parts = {"mesh": 2}.get(strategy, 8)
    update = 0.2 * (elements - divided * (1 - 1 / parts)) / elements
    assert found.seconds == pytest.approx(1.0 + update)
    assert found.compute_seconds == pytest.approx(1.0 + update)


def test_gradients_from_factors_take_the_rows_of_all_ranks() -> None:
    """Under allreduce: 0.08 s of the kernel's gradient on one rank, eight times that on eight."""
    assert run(tasks_of("allreduce", 8, 1, (KERNEL,)), 0.0).compute_seconds == pytest.approx(1.2 + 7 * 0.08)
    assert run(tasks_of("sharded", 8, 1, (KERNEL,)), 0.0).compute_seconds < 1.2


def test_activations_cannot_be_hidden_but_beside_the_kernels_gradient() -> None:
    """Four calls of activations, and the gradients' of the others behind the rest of the backward pass."""
    alone = run(tasks_of("tensor", 8, 8, (KERNEL,)), 0.0).seconds
    calls = [
        0.0 if t.call is None else 0.1 * (t.call.operation != "allreduce") for t in tasks_of("tensor", 8, 8, (KERNEL,))
    ]
    found = schedule(tasks_of("tensor", 8, 8, (KERNEL,)), calls, NOTHING)
    assert found.seconds == pytest.approx(alone + 4 * 0.1 - 0.08)  # but for the kernel's gradient, beside the last


def test_the_largest_of_many_draws() -> None:
    """Of two values each is the largest with (1/2)^N and the rest; of normal values three deviations at about 500."""
    assert expected_largest([1.0, 3.0], 2) == pytest.approx(1 * 0.25 + 3 * 0.75)
    values = [100 + k for k in range(-10, 11)]
    assert expected_largest(values, 1) == pytest.approx(100)
    assert expected_largest(values, 21) < 110
    assert 115 < expected_largest(values, 1000) < 125  # beyond those that were seen: 3.2 deviations of 6.2
    assert straggler_seconds([1.0] * 10, 1024) == 0.0
    assert straggler_seconds([], 4) == 0.0
    assert straggler_seconds([1.0, 2.0], 1) == 0.0
