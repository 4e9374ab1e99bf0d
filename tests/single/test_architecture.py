"""The order of the rooms holds, and what the documents say of it is so."""

import ast
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.conftest import BIN, PROJECT
from tools import architecture

PACKAGE = PROJECT / "horovod_flowers"


def lint_imports(folder: Path) -> subprocess.CompletedProcess[str]:
    """Check the order in a folder that holds the package and pyproject.toml."""
    return subprocess.run(
        [BIN / "lint-imports", "--no-cache"], cwd=folder, check=False, capture_output=True, text=True, timeout=300
    )


def test_imports_run_one_way() -> None:
    ended = lint_imports(PROJECT)
    assert ended.returncode == 0, ended.stdout


@pytest.mark.slow
@pytest.mark.parametrize(
    ("file", "import_line", "sentence"),
    [
        (
            "data/order.py",
            "from horovod_flowers.training.learning_rate import schedule",
            "horovod_flowers.data is not allowed to import horovod_flowers.training:",
        ),
        (
            "report/content.py",
            "from horovod_flowers.training.console_log import describe_result",
            "horovod_flowers.report is not allowed to import horovod_flowers.training:",
        ),
        (
            "evaluate.py",
            "def late():\n    from horovod_flowers.predict import main",
            "horovod_flowers.evaluate is not allowed to import horovod_flowers.predict:",
        ),
        ("attic/__init__.py", "", "attic"),
    ],
    ids=["backwards", "sideways", "a command as a library, inside a function", "a room without a place"],
)
def test_an_import_against_the_order_is_named(tmp_path: Path, file: str, import_line: str, sentence: str) -> None:
    shutil.copytree(PACKAGE, tmp_path / "horovod_flowers", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(PROJECT / "pyproject.toml", tmp_path)
    changed = tmp_path / "horovod_flowers" / file
    changed.parent.mkdir(exist_ok=True)
    with open(changed, "a", encoding="utf-8") as source:
        source.write(f"\n{import_line}\n")
    ended = lint_imports(tmp_path)
    assert ended.returncode != 0
    assert sentence in " ".join(ended.stdout.split())


def test_the_picture_is_drawn_from_the_declared_order() -> None:
    drawn = architecture.PICTURE.read_text(encoding="utf-8")
    assert drawn == architecture.picture(), "run './flowers run python tools/architecture.py'"


@pytest.mark.parametrize("room", sorted(path.parent for path in PACKAGE.rglob("__init__.py") if path.parent != PACKAGE))
def test_a_room_lists_its_files(room: Path) -> None:
    docstring = ast.get_docstring(ast.parse((room / "__init__.py").read_text(encoding="utf-8"))) or ""
    named = set(re.findall(r"\w+\.py", docstring))
    missing = {path.name for path in room.glob("*.py")} - {"__init__.py", "__main__.py"} - named
    assert not missing, f"{room}/__init__.py does not mention {sorted(missing)}"
    elsewhere = {path.name for path in PACKAGE.rglob("*.py")}
    assert not named - elsewhere, f"{room}/__init__.py mentions {sorted(named - elsewhere)}, which are not there"


@pytest.mark.parametrize("document", sorted(PROJECT.glob("*.md")) + sorted((PROJECT / "docs").glob("*.md")))
def test_every_file_of_the_package_that_a_document_names_is_there(document: Path) -> None:
    if document.name == "CHANGELOG.md":  # it tells of what was, too
        return
    named = re.findall(
        r"(?<!\.)(?:horovod_flowers|tests|tools|jobs|slurm|benchmarks)/[\w/.-]*\w", document.read_text("utf-8")
    )
    missing = [name for name in named if not (PROJECT / name).exists() and name != "slurm/site.sh"]
    assert not missing
