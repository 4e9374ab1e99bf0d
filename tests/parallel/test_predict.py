"""Prediction over ranks: the same table at any number of them, and no more memory for more photos."""

import csv
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.conftest import Workplace, mpirun, write_photos_in
from tests.parallel.commands_in_one_job import Command

RUN = "for-predict"
RANKS = (1, 2, 3)
ENDINGS = ("csv", "jsonl", "parquet")


@pytest.fixture(scope="module")
def trained(shared_workplace: Workplace) -> Workplace:
    ended = shared_workplace.train("--name", RUN, "--global-batch", "16")
    assert ended.status == 0, ended.output
    return shared_workplace


@dataclass(frozen=True)
class Predicted:
    """Tables of the same photos, by as many ranks as their names say, and what was printed for each."""

    folder: Path
    photos: Path
    printed: dict[tuple[int, str], str]


@pytest.fixture(scope="module")
def predicted(trained: Workplace, tmp_path_factory: pytest.TempPathFactory) -> Predicted:
    """One job for each number of ranks."""
    photos = write_photos_in(tmp_path_factory.mktemp("predicted"), red=9, blue=8)
    (photos / "broken.jpg").write_bytes(b"no photo")
    (photos / "aside.jpg").symlink_to(next((photos / "red").iterdir()))
    printed = {}
    for ranks in RANKS:
        commands = [
            Command.of(
                *("horovod_flowers.predict", photos, "--run", f"runs/{RUN}", "--threads", "1", "--batch", "3"),
                *("--output", trained.folder / f"{ranks}.{ending}"),
            )
            for ending in ENDINGS
        ]
        for ending, said in zip(ENDINGS, trained.run_in_one_job(*commands, ranks=ranks), strict=True):
            printed[ranks, ending] = said
    return Predicted(trained.folder, photos, printed)


@pytest.mark.parametrize("ending", ENDINGS)
def test_the_table_is_the_same_at_any_number_of_ranks(predicted: Predicted, ending: str) -> None:
    folder, tables = predicted.folder, []
    for ranks in RANKS:
        said = predicted.printed[ranks, ending]
        assert "18 photos classified" in said
        assert "1 of 19 photos could not be read" in said
        assert ("oversubscribed" in said) == (ranks > len(os.sched_getaffinity(0)))
        tables.append((folder / f"{ranks}.{ending}").read_bytes())
        assert (folder / f"{ranks}.{ending}.unreadable.csv").read_text().count("\n") == 2
    assert tables[0] == tables[1] == tables[2]
    assert not list(folder.glob(".*parts"))
    if ending == "csv":
        names = [row["photo"] for row in csv.DictReader((folder / "1.csv").open())]
        assert names[0] == str(predicted.photos / "aside.jpg")
        assert names[1:] == sorted(names[1:])


def test_none_readable_is_a_mistake_that_leaves_no_table(trained: Workplace, tmp_path: Path) -> None:
    (tmp_path / "broken.jpg").write_bytes(b"no photo")
    command = ["python", "-m", "horovod_flowers.predict", str(tmp_path), "--run", f"runs/{RUN}", "--output", "none.csv"]
    ended = trained.run(*mpirun(2, *command))
    assert ended.status == 2
    assert "none of the 1 photos could be read: see none.csv.unreadable.csv" in ended.stderr
    assert not (trained.folder / "none.csv").exists()
    assert not list(trained.folder.glob(".none*"))


def test_a_hundred_thousand_paths_take_no_more_memory(trained: Workplace, write_photos: Callable[..., Path]) -> None:
    """Almost all of them missing, which is quick; what is kept of a path would be kept of a photo's, too."""
    photo = next((write_photos(red=2, blue=2) / "red").iterdir())
    peaks = []
    for count in (1_000, 100_000):
        listing = trained.folder / f"{count}.txt"
        with listing.open("w") as file:
            file.writelines(f"/no/such/folder/with/a/long/name/{number:0100d}.jpg\n" for number in range(count - 1))
            file.write(f"{photo}\n")
        script = (
            "import resource, sys; from horovod_flowers.predict import main; main(sys.argv[1:]); "
            "print('peak', resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)"
        )
        words = [f"@{listing}", "--run", f"runs/{RUN}", "--output", "many.csv", "--threads", "1"]
        ended = trained.run("python", "-c", script, *words)
        assert ended.status == 0, ended.output
        assert f"{count - 1} of {count} photos could not be read" in ended.stdout
        peaks.append(int(ended.stdout.split("peak ")[1]))
    # The names alone are 14 MB, as Python's text with their reasons more than 40.
    assert peaks[1] - peaks[0] < 15_000  # KiB
