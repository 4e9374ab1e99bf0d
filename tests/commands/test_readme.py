"""The README's words: its first screen, its options. Its commands as typed are in the files beside this one."""

import re
import shlex

from tests.conftest import BIN, PROJECT, Workplace, run_command


def blocks() -> list[str]:
    return re.findall(r"```(?:bash|sh)\n(.*?)```", (PROJECT / "README.md").read_text(encoding="utf-8"), re.DOTALL)


def test_the_first_screen_holds_exactly_two_commands() -> None:
    first_screen = "\n".join((PROJECT / "README.md").read_text(encoding="utf-8").splitlines()[:30])
    commands = [
        line.split("#")[0].split()
        for block in re.findall(r"```(?:bash|sh)\n(.*?)```", first_screen, re.DOTALL)
        for line in block.splitlines()
    ]
    assert commands == [["./flowers", "study"], ["./flowers", "test"]]


def test_every_option_in_the_readme_exists() -> None:
    """Each `python -m horovod_flowers.X --flags` in the documents parses, so that no document outlives an option."""
    found = []
    documents = (
        *("run-log.md", "strategies.md", "batch-jobs.md", "report.md", "export.md", "accuracy.md", "evaluate.md"),
        *("reliability.md", "elastic.md", "security.md"),
    )
    for document in ("README.md", *(f"docs/{name}" for name in documents)):
        text = (PROJECT / document).read_text(encoding="utf-8").replace("\\\n", " ")
        found += re.findall(r"python -m horovod_flowers\.(\w+)((?:[ \t]+[^\s`|#&;)]+)*)", text)
    assert len(found) > 5
    words = [str(BIN / "python"), "-m"]
    known = {
        command: run_command([*words, f"horovod_flowers.{command}", "--help"], PROJECT).stdout
        for command in {command for command, _ in found}
    }
    for command, options in found:
        for flag in (word for word in shlex.split(options) if word.startswith("--")):
            assert flag in known[command], f"{command} {flag}"


def test_horovodrun_without_mpi_is_refused_in_one_sentence(workplace: Workplace) -> None:
    ended = workplace.run("horovodrun", "--gloo", "-np", "2", "python", "-m", "horovod_flowers.train")
    assert ended.status != 0
    assert ended.output.count("leave out --gloo, or start with mpirun") == 1
