"""horovod_flowers.keras computes what Horovod's interface says, at 1, 2 and 4 ranks."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.conftest import mpirun, run_command

RANKS = (1, 2, 4)
OPTIMIZERS = {"SGD", "Adam", "AdamW", "RMSprop", "Nadam", "Adagrad", "Adamax", "Adafactor", "Ftrl", "Lion", "Lamb"}
OPTIMIZERS |= {"Adadelta"}


@pytest.fixture(scope="module", params=RANKS)
def results(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[int, dict[str, Any]]:
    """The number of ranks, and what each case returned on each rank; the cases that take longest at two ranks."""
    ranks, folder = request.param, tmp_path_factory.mktemp("interface")
    words: list[str | Path] = ["python", "-m", "tests.parallel.horovod_interface", folder / "results.json"]
    words += ["all"] if ranks == 2 else []
    ended = run_command(words if ranks == 1 else mpirun(ranks, *words), folder)
    assert ended.status == 0, ended.output
    assert ("one rank, since no mpirun, srun or horovodrun has started it" in ended.output) == (ranks == 1)
    assert ("so they could not be compared over ranks" in ended.stderr) == (ranks > 1), ended.stderr
    # A case of those that are left out at four ranks.
    assert ("rank 1 begins with other weights than rank 0" in ended.stderr) == (ranks == 2), ended.stderr
    return ranks, json.loads((folder / "results.json").read_text())


def on_all(results: tuple[int, dict[str, Any]], case: str) -> Any:
    """What a case returned, the same on all ranks."""
    found = results[1].get(case)
    if found is None:
        pytest.skip("at two ranks only")
    assert all(each == found[0] for each in found), found
    return found[0]


def of_ranks(results: tuple[int, dict[str, Any]], case: str) -> list[Any]:
    found: list[Any] | None = results[1].get(case)
    if found is None:
        pytest.skip("at two ranks only")
    return found


def test_gradients_are_combined_as_each_argument_says(results: tuple[int, dict[str, Any]]) -> None:
    ranks = results[0]
    mean = (ranks + 1) / 2
    found = on_all(results, "reductions")
    assert len(found) == 8
    for name, weights in found.items():
        factor = ranks if name == "sum" else 1
        assert weights == pytest.approx([-factor * mean * k for k in (1, 2, 3)], rel=1e-6), name


def test_rows_of_embeddings_are_combined(results: tuple[int, dict[str, Any]]) -> None:
    ranks = results[0]
    once = np.zeros(3)
    once[0] = ranks
    for rank in range(ranks):
        once[rank % 3] += 2
    for name, weights in on_all(results, "sparse").items():
        steps = 1 if name.startswith("passes") else 2
        expected = -steps * once / (1 if name == "sum" else ranks) * (2 if name == "passes_as_dense" else 1)
        np.testing.assert_allclose(weights, np.stack([expected, expected], axis=1), rtol=1e-6, err_msg=name)


def test_a_gradient_that_only_some_ranks_have_is_zero_on_the_others(results: tuple[int, dict[str, Any]]) -> None:
    ranks = results[0]
    first, second, third, fourth = (np.array(each)[:, 0] for each in on_all(results, "missing_or_of_another_kind"))
    others = sum(range(2, ranks + 1))
    np.testing.assert_allclose(first, [0, -1 / ranks, 0])
    np.testing.assert_allclose(second, -np.array([others, others + 1, others]) / ranks)
    np.testing.assert_allclose(third, 0)
    np.testing.assert_allclose(fourth, -(ranks + 1) / 2)


def test_passes_are_added_up_or_averaged(results: tuple[int, dict[str, Any]]) -> None:
    mean = (results[0] - 1) / 2
    for average, (values, iterations) in on_all(results, "aggregation").items():
        step = mean if average == "True" else 4 * mean
        assert values == pytest.approx([(number + 1) // 4 * step for number in range(10)])
        assert iterations == list(range(1, 11))


def test_passes_give_what_keras_accumulates(results: tuple[int, dict[str, Any]]) -> None:
    found = on_all(results, "passes_are_as_keras_accumulates")
    assert max(found[::2]) < 1e-6
    assert min(found[1::2]) > 0.01


def test_every_optimizer_updates_with_the_mean_gradient(results: tuple[int, dict[str, Any]]) -> None:
    found = on_all(results, "optimizers")
    assert set(found) == OPTIMIZERS
    for name, (difference, moved) in found.items():
        assert difference < 1e-4, name
        assert moved > 1e-3, name


def test_an_infinite_gradient_of_one_rank_is_left_out_by_all(results: tuple[int, dict[str, Any]]) -> None:
    mean = (results[0] + 1) / 2
    for name, steps in on_all(results, "infinite_gradients").items():
        # Scaled by 2 where the gradients are 2, 4, ...: the update is their half.
        if name.endswith("_2"):
            weights = [0, 0, 0, -mean, -mean, -2 * mean]
            scales, iterations = [4, 2, 2, 2, 2, 2], [1, 0, 1, 2, 3, 4]
        else:
            weights, scales, iterations = [0, -mean, -2 * mean], [2, 2, 2], [0, 1, 2]
        assert [step[0] for step in steps] == pytest.approx(weights), name
        assert [step[1:] for step in steps] == [list(each) for each in zip(scales, iterations, strict=True)], name


def test_the_loss_scaling_of_compile_agrees_on_infinity(results: tuple[int, dict[str, Any]]) -> None:
    kind, skipped, scale, kernel = on_all(results, "mixed_float16")
    assert (kind, skipped, scale) == ("LossScaleOptimizer", 0, 2**14)
    assert np.isfinite(kernel).all()


def test_local_variables_have_their_rank_s_gradients(results: tuple[int, dict[str, Any]]) -> None:
    ranks = results[0]
    found = of_ranks(results, "local_variables")
    for rank, each in enumerate(found):
        for scale in (True, False):
            size = ranks if scale else 1
            assert each[f"registered_{scale}"] == pytest.approx([-(ranks + 1) / 2, -(rank + 1) / size])
            # The loss (k w x - y)^2 with k = 1, w = 0 and x = 1, whose gradient is -2 y for the kernel that is local.
            assert each[f"layer_{scale}"] == pytest.approx([1, 2 * (rank + 1) / size])
        assert each["not_finite_here_alone"] == [2, 0, 0]


def test_process_sets_combine_among_themselves(results: tuple[int, dict[str, Any]]) -> None:
    ranks = results[0]
    rest = float(np.mean(range(2, ranks + 1))) if ranks > 1 else 1.0
    for rank, (first, second, removed) in enumerate(of_ranks(results, "process_sets")):
        assert first == -(rank + 1)  # alone, or not in the set
        assert second == pytest.approx(-1 if rank == 0 else -rest)
        assert removed is True


def test_a_configuration_is_that_of_the_user_s_optimizer(results: tuple[int, dict[str, Any]]) -> None:
    weight, module, name = on_all(results, "configuration")
    assert weight == -(results[0] + 1) / 2
    assert (module, name) == ("keras.optimizers", "Adam")


def test_optimizers_beside_each_other_combine_their_own_gradients(results: tuple[int, dict[str, Any]]) -> None:
    mean = (results[0] + 1) / 2
    assert on_all(results, "two_optimizers_in_a_step") == pytest.approx([1 - 2 * mean, 1 - 4 * mean, 1 - 2 * 0.5])


def test_saved_models_go_on_as_they_were(results: tuple[int, dict[str, Any]]) -> None:
    kinds, differences, _ = on_all(results, "saved_models")
    assert kinds == [True, True, True, True]
    assert differences == [0, 0, 0]


def test_learning_rates(results: tuple[int, dict[str, Any]]) -> None:
    ranks, found = results[0], on_all(results, "learning_rates")
    warm = [0.4 / ranks * (number / 8 * (ranks - 1) + 1) for number in range(1, 9)]
    in_part = [0.4 / ranks * (number / 6 * (ranks - 1) + 1) for number in range(1, 7)]
    assert found["warmup_by_twos"][0] == pytest.approx([*warm[::2], 0.4, 0.4])
    assert found["warmup_by_twos"][1] == pytest.approx([warm[2], 0.4, 0.4])
    expected = {
        "warmup": warm + [0.4] * 4,
        "warmup_in_part": in_part + [0.4] * 6,
        "staircase": [0.3] * 4 + [0.04] * 4 + [0.004] * 4,
        "smooth": [0.4 * (1 + number / 4) for number in range(8)] + [0.4 * (1 + 7 / 4)] * 4,
        "exponential": [0.3] * 4 + [0.4] * 4 + [0.2] * 4,
    }
    for name, rates in expected.items():
        assert found[name][0] == pytest.approx(rates), name
        assert found[name][1] == pytest.approx(rates[3::4]), name


def test_velocities_follow_the_learning_rate(results: tuple[int, dict[str, Any]]) -> None:
    def trained(correct: bool) -> float:
        weight, velocity, before = 0.0, 0.0, 1.0
        for rate in (1.0, 1.0, 0.5, 0.5):
            velocity = 0.5 * velocity * (rate / before if correct else 1) - rate
            weight, before = weight + velocity, rate
        return weight

    assert on_all(results, "momentum_correction") == pytest.approx([trained(True), trained(False)])


def test_ranks_begin_with_the_root_s_weights_and_optimizer_state(results: tuple[int, dict[str, Any]]) -> None:
    first, second, *_ = (each["built"] for each in of_ranks(results, "broadcast_before_the_first_batch"))
    assert first["before"] != pytest.approx(second["before"])
    assert second["seen"] == pytest.approx([sum(first["before"])])  # when its first batch begins
    # The learning rate is 0 and the momentum 1: the step adds the velocities, which rank 0 has as 1.
    assert first["velocity"] == second["velocity"] == [1, 1, 1]
    assert second["after"] == first["after"] == pytest.approx(np.add(first["before"], [6, 2, 1]))


def test_a_model_without_weights_gets_the_root_s_before_its_first_batch(results: tuple[int, dict[str, Any]]) -> None:
    first, second, *_ = (each["unbuilt"] for each in of_ranks(results, "broadcast_before_the_first_batch"))
    assert first["before"] == []
    assert second["after"] == first["after"]
    assert abs(first["kernel"]) > 0.1


def test_local_variables_are_not_broadcast_nor_is_their_state(results: tuple[int, dict[str, Any]]) -> None:
    first, second, *_ = (each["local"] for each in of_ranks(results, "broadcast_before_the_first_batch"))
    assert (first["velocity"], second["velocity"]) == ([1, 1, 1], [1, 2, 1])
    assert second["after"][1] == pytest.approx(second["before"][1] + 4)
    assert second["after"][0] == first["after"][0]


def test_metrics_are_those_of_all_samples(results: tuple[int, dict[str, Any]]) -> None:
    ranks = of_ranks(results, "metrics")
    expected = ranks[0]["expected"]
    for each in ranks:
        training, both = each["epochs"]
        for name, of_all in expected.items():
            value = of_all
            if name == "largest":  # its state is no sum: weighted by samples
                total = sum(other["samples"] for other in ranks)
                value = sum(other["local"][name] * other["samples"] for other in ranks) / total
            else:
                assert name == "auc" or each["local"][name] != pytest.approx(value, rel=1e-3), name
            for logs in (training[name], both[name], both[f"val_{name}"]):
                assert logs == pytest.approx(value, rel=1e-5), name


def test_other_numbers_of_the_logs_are_averaged(results: tuple[int, dict[str, Any]]) -> None:
    assert on_all(results, "numbers_of_no_metric") == pytest.approx([(results[0] - 1) / 2] * 2)


def test_the_best_model_is_written_once(results: tuple[int, dict[str, Any]]) -> None:
    refused, files = on_all(results, "best_model")
    assert "has no file: set its filepath, such as 'best.keras'" in refused
    assert files == ["0.keras"]


def test_elastic_state_is_synchronised_restored_and_committed(results: tuple[int, dict[str, Any]]) -> None:
    committed, changed = [1, 1, 20, 10, 0], [7, 5, 21, 11, 3]
    assert on_all(results, "elastic_state") == [committed, committed, changed, changed]


def test_an_epoch_that_was_cut_off_goes_on(results: tuple[int, dict[str, Any]]) -> None:
    steps, seen, state = on_all(results, "elastic_callbacks")
    assert [each[:2] for each in seen] == [[0, 1], [0, 2], [0, 3], [1, 1], [1, 2], [1, 3], [2, 1], [2, 2], [2, 3]]
    assert [each[2] for each in seen[:3]] == [0, 2, 2]
    assert steps == 9
    assert state == [3, 0]


def test_values_are_combined(results: tuple[int, dict[str, Any]]) -> None:
    ranks, found = results[0], of_ranks(results, "collectives")
    mean, total = (ranks + 1) / 2, ranks * (ranks + 1) / 2
    for rank, each in enumerate(found):
        assert np.ravel(each["average"]).tolist() == [(ranks - 1) / 2 + number for number in range(4)]
        for name in ("sum", "not_average", "scaled", "bfloat16"):
            assert each[name] == [total, 2 * total], name
        assert each["max"] == [ranks, 2 * ranks]
        assert each["fp16"] == [mean, 2 * mean]
        assert each["allgather"] == [own + number for own in range(ranks) for number in range(own + 1)]
        assert each["broadcast"] == [ranks + 4]
        assert each["object"] == {"rank": ranks - 1}
        own = range(rank * 4 // ranks, (rank + 1) * 4 // ranks)
        assert each["reducescatter"] == [ranks * number + ranks * (ranks - 1) / 2 for number in own]
        # a (1 - ab / 2aa) + b (1 - ab / 2bb) of (1, 0) and (1, 1); twice the same is itself.
        expected = [1, 0] if ranks == 1 else [1.25, 0.75]
        assert each["adasum"] == each["adasum_in_graph"] == pytest.approx(expected)
        assert each["questions"] == [True, True, True, 0, ranks]
        assert each["places"] == [rank, rank, 0, ranks, ranks, 1]


REFUSED = {
    "op": "op is Max: give hvd.Average or hvd.Sum",
    "adasum": "use op=hvd.Average or op=hvd.Sum",
    "predivide": "gradient_predivide_factor splits an average: use it with op=hvd.Average",
    "factor": "gradient_predivide_factor is 0, and has to be a number above 0",
    "groups": "groups is 0: give a number above 0, or a list of lists of variables",
    "passes": "backward_passes_per_step is 0, and has to be a whole number from 1",
    "both_accumulate": "both add up gradients: use one of them",
    "compression": "give hvd.Compression.none, hvd.Compression.fp16, or a class with compress and decompress",
    "device": "device_dense is '/gpu:0', and TensorFlow finds no GPU here: leave it out",
    "process_set": "is not known to Horovod: give it to hvd.init(process_sets=[...])",
    "twice": "combines gradients over ranks already: wrap it once",
    "no_optimizer": "is no optimizer of Keras 3",
    "local_layers": "which is no layer of Keras 3",
    "local_variable": "which is no variable",
    "legacy": "which Keras 3 does not have",
    "root": "root_rank is 77, and the ranks are 0",
    "global_variables": "use hvd.callbacks.BroadcastGlobalVariablesCallback(0)",
    "average_and_op": "is given both average and op: give op alone",
    "warmup": "warmup_epochs is 0, and has to be above 0",
    "initial_lr": "initial_lr is None",
    "schedule": "cannot set the learning rate of an optimizer that has a schedule of its own",
    "momentum": "does not know how Own uses its momentum: give momentum_correction=False",
    "unbuilt_state": "has no weights yet: give it an Input layer",
    "commits": "batches_per_commit is 0, and has to be a whole number from 1",
}


def test_what_cannot_work_is_refused_in_a_sentence(results: tuple[int, dict[str, Any]]) -> None:
    found = on_all(results, "refusals")
    assert found.keys() == REFUSED.keys()
    for name, sentence in REFUSED.items():
        assert sentence in found[name], name
        assert "\n" not in found[name]
