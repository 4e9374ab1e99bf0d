"""Storage that refuses to be written ends a job in one sentence, and leaves what was there before as it was."""

import re
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

from horovod_flowers.checkpoint.format import checkpoint_files, read_progress
from horovod_flowers.config.data import DataConfig
from horovod_flowers.data.prepared import prepare
from horovod_flowers.data.sources import open_source
from horovod_flowers.runlog.json_lines import read_lines
from horovod_flowers.runlog.reading.run import read_run
from horovod_flowers.runlog.records import EpochRecord, Header, StepRecord
from horovod_flowers.runtime.errors import StorageError
from tests.conftest import TIMEOUT_SECONDS, TINY, Ended, Workplace, run_command
from tests.parallel.running_job import training

OPTIONS = ("--global-batch", "16", "--threads", "1")
Mount = Callable[..., Path]


@pytest.fixture
def mount(tmp_path: Path) -> Iterator[Mount]:
    """Mount a file system in memory: mount("2m", folder); again on the same folder, with another size or read-only."""
    mounted: list[Path] = []

    def mount(size: str, folder: Path) -> Path:
        again = folder in mounted
        folder.mkdir(parents=True, exist_ok=True)
        options = f"remount,size={size}" if again else f"size={size}"
        done = subprocess.run(
            ["mount", "-t", "tmpfs", "-o", options, "tmpfs", folder], capture_output=True, text=True, check=False
        )
        if done.returncode != 0:
            pytest.skip(f"no file system can be mounted here ({done.stderr.strip()})")
        mounted.append(folder)
        return folder

    yield mount
    for folder in dict.fromkeys(mounted):
        subprocess.run(["umount", "--lazy", folder], capture_output=True, check=False)


def the_sentence(ended: Ended, statuses: Sequence[int] = (1,)) -> str:
    assert ended.status in statuses, ended.output
    assert "Traceback" not in ended.output, ended.output
    (sentence,) = (line for line in ended.stderr.splitlines() if ": error: " in line)
    return sentence


def leftovers(folder: Path) -> list[Path]:
    return [path for path in folder.rglob(".*") if path.name.endswith((".tmp", ".earlier"))]


def test_a_disk_that_fills_with_checkpoints_and_is_given_room_again(workplace: Workplace, mount: Mount) -> None:
    runs = mount("8m", workplace.folder / "small")
    options = (*OPTIONS, "--runs-dir", runs, "--name", "full", "--epochs", "4")  # 4 MB a checkpoint, up to three
    sentence = the_sentence(workplace.train(*options, ranks=2))
    # Whichever is being written at that moment: on a busy machine one of them is put off.
    of_checkpoint = (
        r"/full/checkpoints/(last|best)\.safetensors \(No space left on device\): free some space, or choose"
    )
    assert re.search(of_checkpoint, sentence), sentence
    assert sentence.endswith("--resume-or-start --name full then continues from its last checkpoint")
    run = runs / "full"
    assert leftovers(run) == []
    reached = [read_progress(path).epochs_done for path in checkpoint_files(run / "checkpoints")]
    assert reached[0] >= 1
    mount("64m", runs)
    resumed = workplace.train(*options, "--resume-or-start", ranks=2)
    assert resumed.status == 0, resumed.output
    assert f"resuming after epoch {reached[0]}, step {6 * reached[0]}" in resumed.stdout
    assert [epoch.epoch for epoch in read_run(run).epochs] == [1, 2, 3, 4]


def test_a_disk_that_fills_with_records(workplace: Workplace, mount: Mount) -> None:
    runs = mount("96k", workplace.folder / "small")
    options = (*OPTIONS, "--runs-dir", runs, "--name", "full", "--no-checkpoint", "--no-validate", "--epochs", "200")
    sentence = the_sentence(workplace.train(*options, ranks=2))
    assert re.search(r"/full/(steps/rank-0000\d|epochs)\.jsonl \(No space left on device\): free some space", sentence)
    assert "then continues from the beginning, since it has no checkpoint yet" in sentence
    for rank in range(2):
        steps = list(read_lines(runs / "full" / "steps" / f"rank-{rank:05d}.jsonl", Header | StepRecord))
        assert [step.step for step in steps[1:]] == list(range(len(steps) - 1))
    epochs = list(read_lines(runs / "full" / "epochs.jsonl", EpochRecord))
    assert [epoch.epoch for epoch in epochs] == list(range(1, len(epochs) + 1))


def test_checkpoints_become_read_only_in_the_middle_of_a_run(workplace: Workplace, mount: Mount) -> None:
    """A mount over the folder, as a file server's fault remounts it."""
    folder = workplace.folder / "runs" / "ro" / "checkpoints"
    options = (*OPTIONS, "--name", "ro", "--epochs", "100000", "--no-validate", "--keep-checkpoints", "1")
    with training(workplace, *options) as job:
        job.wait_for("epoch 2/100000: ")
        while not (folder / "last.safetensors").exists():
            time.sleep(0.05)
        mount("1m,ro", folder)
        status = job.end(TIMEOUT_SECONDS)
    sentence = the_sentence(Ended(status, "", job.output))
    assert "runs/ro/checkpoints/last.safetensors (Read-only file system): choose a folder that can be" in sentence
    subprocess.run(["umount", folder], check=True)
    assert read_progress(folder / "last.safetensors").epochs_done >= 1


def test_a_run_whose_folder_another_run_has_replaced(workplace: Workplace) -> None:
    """As two jobs did whose lock somebody had deleted: the second's folder got the first one's checkpoints."""
    folder = workplace.folder / "runs" / "taken"
    options = (*OPTIONS, "--name", "taken", "--epochs", "100000", "--no-validate", "--keep-checkpoints", "1")
    with training(workplace, *options) as job:
        job.wait_for("epoch 2/100000: ")
        folder.rename(folder.with_name("away"))
        (folder / "checkpoints").mkdir(parents=True)
        sentence = the_sentence(Ended(job.end(TIMEOUT_SECONDS), "", job.output))
    # The latter where a checkpoint was just being written.
    assert "replaced by another run while this" in sentence or "renamed or deleted while this" in sentence
    # That one may have come to its place, no other.
    assert {path.name for path in folder.rglob("*")} <= {"checkpoints", "last.safetensors"}


def test_a_run_whose_folder_is_renamed_while_it_trains(workplace: Workplace) -> None:
    with training(workplace, *OPTIONS, "--name", "moved", "--epochs", "100000", "--no-validate") as job:
        job.wait_for("epoch 2/100000: ")
        (workplace.folder / "runs" / "moved").rename(workplace.folder / "runs" / "elsewhere")
        status = job.end(TIMEOUT_SECONDS)
    sentence = the_sentence(Ended(status, "", job.output))
    assert "cannot write runs/moved/checkpoints/last.safetensors (its folder was renamed or deleted while" in sentence
    assert "--resume-or-start" not in sentence  # it would start from the beginning
    assert [path.name for path in (workplace.folder / "runs").iterdir() if not path.name.startswith(".")] == [
        "elsewhere"
    ]


def test_files_that_may_not_grow_large(workplace: Workplace) -> None:
    """What a quota does to one process."""
    words = [
        "prlimit",
        "--fsize=1000000",
        "python",
        "-m",
        "horovod_flowers.train",
        *TINY,
        *OPTIONS,
        "--name",
        "limited",
    ]
    ended = workplace.run(*words, "--data.prepared-dir", workplace.prepared)
    assert "last.safetensors (File too large): raise the limit on the size of files (ulimit -f)" in the_sentence(ended)
    assert leftovers(workplace.folder) == []


@pytest.fixture(scope="module")
def trained(shared_workplace: Workplace) -> Path:
    ended = shared_workplace.train(*OPTIONS, "--name", "for-full-disks", "--epochs", "1")
    assert ended.status == 0, ended.output
    return shared_workplace.folder / "runs" / "for-full-disks"


def test_commands_on_a_full_disk_leave_what_was_there(
    workplace: Workplace, mount: Mount, trained: Path, write_photos: Callable[..., Path]
) -> None:
    full = mount("1m", workplace.folder / "full")
    photos = write_photos(red=40, blue=40)
    (full / "out.csv").write_text("an earlier table\n")
    (full / "report").mkdir()
    (full / "report" / "index.html").write_text("an earlier report\n")
    filled = subprocess.run(
        ["dd", "if=/dev/zero", f"of={full / 'filling'}"], capture_output=True, text=True, check=False
    )
    assert "No space left on device" in filled.stderr
    before = {path: path.read_bytes() for path in full.rglob("*") if path.is_file()}
    commands: list[tuple[str | Path, ...]] = [
        ("report", "--runs-dir", trained.parent, "--output", full / "report"),
        ("predict", photos, "--run", trained, "--output", full / "out.csv"),
        ("evaluate", trained, "--output", full / "evaluation"),
        ("export", trained, "--output", full / "export"),
        ("prepare", "--data.source", "folder", "--data.path", photos, "--data.prepared-dir", full / "prepared"),
    ]
    for command, *options in commands:
        ended = workplace.run("python", "-m", f"horovod_flowers.{command}", *options)
        # 2 where a command looks, before it begins, whether it can write there.
        assert "(No space left on device): " in the_sentence(ended, (1, 2)), command
        assert {path: path.read_bytes() for path in full.rglob("*") if path.is_file()} == before, command


@pytest.mark.parametrize("size", ["64k", "256k", "492k"])
def test_images_are_prepared_whole_or_not_at_all(tmp_path: Path, mount: Mount, size: str) -> None:
    """Also where only the end of the last file has no room: 40 images of 12 kB are 480 kB."""
    root = mount(size, tmp_path / "small")
    source = open_source(DataConfig(image_size=64, synthetic_images=40))
    with pytest.raises(StorageError, match="No space left on device"):
        prepare(root, source, processes=1)
    assert [path for path in root.rglob("*") if path.is_file()] == []
    mount("4m", root)
    assert len(prepare(root, source, processes=1)) == 40


def test_a_file_system_that_is_slow_does_not_hold_up_steps(workplace: Workplace) -> None:
    """Every fsync takes a second longer, as on a busy file server: checkpoints that come due meanwhile are put off."""
    if shutil.which("gcc") is None:
        pytest.skip("there is no compiler to build a slow fsync with")
    source, library = workplace.folder / "slow.c", workplace.folder / "slow.so"
    source.write_text(
        "#define _GNU_SOURCE\n#include <unistd.h>\n#include <sys/syscall.h>\n"
        "int fsync(int file) { sleep(1); return syscall(SYS_fsync, file); }\n"
    )
    subprocess.run(["gcc", "-shared", "-fPIC", "-o", library, source], check=True)
    options = (*OPTIONS, "--name", "slow", "--checkpoint-steps", "1", "--keep-checkpoints", "100", "--epochs", "2")
    ended = workplace.train(*options, "--no-validate", variables={"LD_PRELOAD": str(library)})
    assert ended.status == 0, ended.output
    run = workplace.folder / "runs" / "slow"
    saved = [read_progress(path).steps for path in (run / "checkpoints").glob("[el]*.safetensors")]
    assert {6, 12} <= set(saved)  # at the end of an epoch, always
    assert len(saved) < 12
    assert read_run(run).result.progress.steps_done == 12


def test_output_that_nobody_reads_any_more(trained: Path, tmp_path: Path) -> None:
    words = f"python -m horovod_flowers.report --runs-dir '{trained.parent}' --output report | true"
    ended = run_command(["bash", "-o", "pipefail", "-c", words], tmp_path)
    assert ended.status == 141, ended.output
    assert ended.stderr == ""
