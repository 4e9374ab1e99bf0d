"""Wrong use: one sentence, exit status 2, on one rank only, within seconds, no traceback, earlier results untouched."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.conftest import Ended, Workplace, mpirun

Refused = Callable[..., Ended]


def assert_one_sentence(ended: Ended, sentence: str) -> None:
    ours = [line for line in ended.output.splitlines() if "horovod_flowers" in line and "error:" in line]
    assert ended.status == 2, ended.output
    assert len(ours) == 1, ended.output
    assert sentence in ours[0]
    assert "Traceback" not in ended.output


def snapshot(folder: Path) -> dict[Path, bytes | None]:
    return {path: path.read_bytes() if path.is_file() else None for path in folder.rglob("*")}


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["--epoks", "3"], "there is no option --epoks: did you mean --epochs?"),
        (["--strategy", "ring"], "allowed is one of 'allreduce', 'sharded', 'tensor', 'mesh', 'none', 'auto'"),
        (["--global-batch", "15"], "global_batch 15 cannot be divided equally over 2 ranks: try 14 or 16"),
        (["--global-batch", "1000"], "a global batch of 1000 images (2 ranks) is more than the 96 training images"),
        (["--data.source", "folder", "--data.path", "/no/such/folder"], "/no/such/folder does not exist"),
        (["--runs-dir", "/proc/runs"], "cannot write in /proc/runs"),
        (["--resume", "--name", "never"], "there is no run runs/never to resume"),
        (["--model.name", "resnet"], "there is no model 'resnet'"),
        (["--precision", "fp16"], "precision fp16 is for GPUs, and this rank computes on a CPU"),
        (
            ["--strategy", "mesh", "--model-parallel-size", "3"],
            "model_parallel_size 3 does not divide 2 ranks: try 1, 2",
        ),
        (["--strategy", "sharded", "--compression", "fp16"], "strategy sharded cannot use it: leave out --compression"),
    ],
)
def test_a_mistake_is_told_before_anything_starts(
    workplace: Workplace, refused_here: Refused, options: list[str], sentence: str
) -> None:
    assert_one_sentence(refused_here("train", *workplace.tiny(*options), ranks=2), sentence)
    assert not (workplace.folder / "runs").exists() or list((workplace.folder / "runs").iterdir()) == []


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["--epoks", "3"], "there is no option --epoks: did you mean --epochs?"),  # before MPI starts
        (["--runs-dir", "/proc/runs"], "cannot write in /proc/runs"),  # the same, where rank 0 alone looks
        (  # when the model has been built
            ["--strategy", "tensor", "--shard-layers", "dense_9"],
            "shard_layers names 'dense_9': Dense layers of the model",
        ),
        (
            ["--strategy", "tensor", "--model.name", "tests.parallel.model_zoo:without_dense"],
            "the model has no Dense layer of at least 100,000 weights to divide (it has none): use",
        ),
    ],
)
def test_every_rank_makes_the_mistake_and_one_tells(workplace: Workplace, options: list[str], sentence: str) -> None:
    assert_one_sentence(workplace.train(*options, ranks=2), sentence)
    assert not (workplace.folder / "runs").exists() or list((workplace.folder / "runs").iterdir()) == []


def test_a_strategy_of_several_ranks_works_on_one_and_says_what_it_is(workplace: Workplace) -> None:
    strategies = ("tensor", "auto")
    trainings = [workplace.training("--strategy", strategy, "--name", strategy) for strategy in strategies]
    for strategy, said in zip(strategies, workplace.run_in_one_job(*trainings, ranks=1), strict=True):
        assert f"one rank: nothing to divide, strategy {strategy} is the same as none" in said


def test_a_mistake_under_horovodrun_is_told_once_too(workplace: Workplace) -> None:
    ended = workplace.run("horovodrun", "-np", "2", "python", "-m", "horovod_flowers.train", "--epoks", "3")
    assert_one_sentence(ended, "there is no option --epoks: did you mean --epochs?")


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, prepared_folder: Path) -> Path:
    """A run, and one of another network under the same name of the model, as where the function was changed since."""
    workplace = Workplace(tmp_path_factory.mktemp("trained"), prepared_folder)
    small, large = (
        workplace.training("--global-batch", "16", "--name", f"of-{size}", "--data.image-size", size)
        for size in ("32", "48")
    )
    workplace.run_in_one_job(small, large)
    return workplace.folder / "runs"


def test_a_run_name_that_exists_is_refused_and_its_run_untouched(
    workplace: Workplace, refused_here: Refused, trained: Path
) -> None:
    shutil.copytree(trained / "of-32", workplace.folder / "runs" / "mine")
    before = snapshot(workplace.folder)
    ended = refused_here("train", *workplace.tiny("--name", "mine"), ranks=2)
    assert_one_sentence(ended, "run runs/mine exists already: choose another --name")
    assert snapshot(workplace.folder) == before
    replaced = workplace.train("--name", "mine", "--overwrite", "--seed", "3")
    assert replaced.status == 0, replaced.output
    assert "seed: 3" in (workplace.folder / "runs" / "mine" / "config.yaml").read_text()
    assert [path.name for path in (workplace.folder / "runs").iterdir()] == ["mine"]


def test_a_folder_that_is_no_run_is_not_overwritten(workplace: Workplace, refused_here: Refused) -> None:
    thesis = workplace.folder / "runs" / "thesis"
    thesis.mkdir(parents=True)
    (thesis / "chapter1.tex").write_text("years of work")
    ended = refused_here("train", *workplace.tiny("--name", "thesis", "--overwrite"))
    assert_one_sentence(ended, "is not a run (no config.yaml)")
    assert (thesis / "chapter1.tex").read_text() == "years of work"


def test_a_checkpoint_of_another_model_is_refused(workplace: Workplace, trained: Path) -> None:
    runs = workplace.folder / "runs"
    shutil.copytree(trained / "of-32", runs / "a")
    shutil.copy(trained / "of-48" / "checkpoints" / "last.safetensors", runs / "a" / "checkpoints")
    before = snapshot(runs)
    ended = workplace.train("--name", "a", "--resume", "--epochs", "2", ranks=2)
    assert_one_sentence(ended, "belongs to another model")
    assert snapshot(runs) == before


@pytest.mark.parametrize("contents", ["epochs: [", "nothing", "epocks: 3\n", "epochs: many\n"])
def test_a_run_whose_configuration_is_damaged_is_not_resumed(
    workplace: Workplace, refused_here: Refused, contents: str
) -> None:
    run = workplace.folder / "runs" / "d"
    run.mkdir(parents=True)
    (run / "environment.json").write_text("{}")
    (run / "config.yaml").write_text(contents)
    ended = refused_here("train", "--name", "d", "--resume", "--epochs", "2")
    assert_one_sentence(ended, "horovod_flowers.train: error: ")
    assert sorted(path.name for path in run.iterdir()) == ["config.yaml", "environment.json"]


def test_more_ranks_than_images_are_refused(workplace: Workplace, refused_here: Refused) -> None:
    options = ("--data.synthetic-images", "10", "--data.validation-fraction", "0.75")
    ended = refused_here("train", *workplace.tiny(*options), ranks=4)
    assert_one_sentence(ended, "4 ranks are more than the 2 training images: start fewer ranks")


def test_photos_that_were_not_prepared_name_the_command_that_does_it(
    workplace: Workplace, refused_here: Refused, write_photos: Callable[..., Path]
) -> None:
    photos = write_photos(red=8, blue=8)
    options = ["--data.source", "folder", "--data.path", str(photos), "--data.prepared-dir", "here"]
    ended = refused_here("train", *workplace.tiny(*options), ranks=2)
    assert_one_sentence(
        ended, "the photos are not prepared: run 'python -m horovod_flowers.prepare --data.source folder"
    )
    command = ended.stderr.split("run '")[1].split("' first")[0].split()
    prepared = workplace.run(*command)
    assert prepared.status == 0, prepared.output
    trained = workplace.train(*options, "--per-rank-batch", "4", ranks=2)
    assert trained.status == 0, trained.output


def test_missing_tf_flowers_name_the_prepare_command(workplace: Workplace, refused_here: Refused) -> None:
    options = ("--data.source", "tf_flowers", "--data.tfds-dir", "nowhere")
    ended = refused_here("train", *workplace.tiny(*options), ranks=2)
    assert_one_sentence(ended, "python -m horovod_flowers.prepare --data.source tf_flowers --data.tfds-dir nowhere")


def test_srun_without_pmi_is_refused_on_one_task(workplace: Workplace, refused_here: Refused) -> None:
    slurm = {"SLURM_JOB_ID": "7", "SLURM_NTASKS": "4", "SLURM_STEP_NUM_TASKS": "4"}
    first = refused_here("train", *workplace.tiny(), variables={"SLURM_PROCID": "0", **slurm})
    assert_one_sentence(first, "Slurm started 4 tasks (SLURM_NTASKS=4)")
    other = refused_here("train", *workplace.tiny(), variables={"SLURM_PROCID": "3", **slurm})
    assert (other.status, other.output) == (2, "")


@pytest.mark.parametrize("content", ["", "no photo"])
def test_prepare_of_a_folder_of_non_images(
    workplace: Workplace, write_photos: Callable[..., Path], content: str
) -> None:
    photos = write_photos(red=2, blue=2)
    for photo in photos.glob("*/*.jpg"):
        photo.write_text(content)
    command = ["python", "-m", "horovod_flowers.prepare", "--data.source", "folder", "--data.path", str(photos)]
    assert_one_sentence(
        workplace.run(*command), "none of the 4 files is a readable JPEG, PNG, WebP, BMP, TIFF or GIF image"
    )
    assert [path for path in (workplace.folder / "data").rglob("*") if path.is_file()] == []


def test_prepare_lists_a_truncated_jpeg_and_goes_on(workplace: Workplace, write_photos: Callable[..., Path]) -> None:
    photos = write_photos(red=4, blue=4)
    photo = photos / "red" / "000.jpg"
    photo.write_bytes(photo.read_bytes()[:200])
    command = ["python", "-m", "horovod_flowers.prepare", "--data.source", "folder", "--data.path", str(photos)]
    ended = workplace.run(*command)
    assert ended.status == 0, ended.output
    assert "prepared 7 images of 2 classes at 180 pixels, 1 unreadable" in ended.stdout
    assert "images/s" in ended.stdout
    assert "unreadable, skipped: red/000.jpg" in ended.stdout
    assert_one_sentence(workplace.run(*command, "--strict"), "1 of 8 images cannot be read: red/000.jpg")


def test_a_truncated_jpeg_among_the_photos_does_not_stop_training(
    workplace: Workplace, write_photos: Callable[..., Path]
) -> None:
    photos = write_photos(red=12, blue=12)
    photo = photos / "red" / "000.jpg"
    photo.write_bytes(photo.read_bytes()[:200])
    options = ["--data.source", "folder", "--data.path", str(photos), "--data.prepared-dir", "prepared"]
    size = ["--data.image-size", "32"]
    prepared = workplace.run("python", "-m", "horovod_flowers.prepare", *options, *size)
    assert prepared.status == 0, prepared.output
    ended = workplace.train(*options, "--per-rank-batch", "4", "--name", "r", ranks=2)
    assert ended.status == 0, ended.output
    assert '"training_images": 18' in (workplace.folder / "runs" / "r" / "result.json").read_text()


def test_help_is_printed_once(workplace: Workplace) -> None:
    ended = workplace.run(*mpirun(2, "python", "-m", "horovod_flowers.train", "--help"))
    assert ended.status == 0
    assert ended.stdout.count("usage:") == 1
