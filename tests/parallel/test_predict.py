"""Prediction over ranks: the same table at any number of them, and no more memory for more photos."""

import csv
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.conftest import Workplace, mpirun

RUN = "for-predict"


@pytest.fixture(scope="module")
def trained(shared_workplace: Workplace) -> Workplace:
    ended = shared_workplace.train("--name", RUN, "--global-batch", "16")
    assert ended.status == 0, ended.output
    return shared_workplace


def predict(workplace: Workplace, ranks: int, *words: str | Path) -> str:
    command = ["python", "-m", "horovod_flowers.predict", *words, "--run", f"runs/{RUN}", "--threads", "1"]
    ended = workplace.run(*mpirun(ranks, *command))
    assert ended.status == 0, ended.output
    return ended.stdout


@pytest.mark.parametrize("ending", ["csv", "jsonl", "parquet"])
def test_the_table_is_the_same_at_any_number_of_ranks(
    trained: Workplace, write_photos: Callable[..., Path], ending: str
) -> None:
    photos = write_photos(red=9, blue=8)
    (photos / "broken.jpg").write_bytes(b"no photo")
    (photos / "aside.jpg").symlink_to(next((photos / "red").iterdir()))
    tables = []
    for ranks in (1, 2, 3):
        output = trained.folder / f"{ranks}.{ending}"
        said = predict(trained, ranks, photos, "--output", output, "--batch", "3")
        assert "18 photos classified" in said
        assert "1 of 19 photos could not be read" in said
        assert ("oversubscribed" in said) == (ranks > 2)
        tables.append(output.read_bytes())
        assert (trained.folder / f"{ranks}.{ending}.unreadable.csv").read_text().count("\n") == 2
    assert tables[0] == tables[1] == tables[2]
    assert not list(trained.folder.glob(".*parts"))
    if ending == "csv":
        names = [row["photo"] for row in csv.DictReader((trained.folder / "1.csv").open())]
        assert names[0] == str(photos / "aside.jpg")
        assert names[1:] == sorted(names[1:])
    shutil.rmtree(photos)


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
