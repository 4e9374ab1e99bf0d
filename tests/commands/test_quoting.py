"""Words of a user reach a program as they were given, whatever starts it: no shell reads them."""

import json
from pathlib import Path

import pytest

from tests.conftest import PROJECT, Workplace, run_command

WORDS = ["a b", "$(touch made)", "; touch made", "it's", '"q"', "`touch made`", "*", "--name=$HOME", "", "a\nb"]


@pytest.mark.parametrize("launcher", ["mpirun", "horovodrun"])
def test_launchers_pass_words_on_as_they_are(tmp_path: Path, launcher: str) -> None:
    """horovodrun makes a shell's line of them, and quotes each."""
    folder = tmp_path / "a folder; $(touch made)"
    folder.mkdir()
    (folder / "print words.py").write_text("import sys; sys.stderr.write('WORDS ' + ascii(sys.argv[1:]) + '\\n')")
    words = ["python", "-m", "horovod_flowers.launcher", "--launcher", launcher, "--ranks", "1", "--"]
    given = WORDS if launcher == "mpirun" else WORDS[:-2]  # horovodrun's line has no room for empty words and lines
    ended = run_command([*words, "python", "print words.py", *given], folder)
    assert ended.status == 0, ended.output
    assert f"WORDS {given!a}" in ended.output.replace("[1,0]<stderr>:", "")
    assert [path.name for path in folder.iterdir()] == ["print words.py"]


@pytest.mark.parametrize("script", ["train.sh", "predict.sh", "strong.sh"])
def test_job_scripts_pass_words_on_as_they_are(workplace: Workplace, script: str) -> None:
    """The first command of each gets them; a Python that prints them stands in its place."""
    programs = workplace.folder / "bin"
    programs.mkdir()
    python = programs / "python"
    python.write_text(
        "#!/usr/bin/env bash\nif [[ $1 == -c ]]; then exit 0; fi\n"
        'for word; do printf "%s\\0" "$word"; done >>"$WORDS_GO_TO"\n'
    )
    python.chmod(0o755)
    told = workplace.folder / "words"
    path = f"{programs}:/usr/bin:/bin"
    variables = {"PATH": path, "WORDS_GO_TO": str(told), "FLOWERS_SITE": "/no/such/file"}
    first = [] if script == "strong.sh" else ["2"]
    ended = run_command(["bash", PROJECT / "jobs" / script, *first, *WORDS], workplace.folder, variables=variables)
    assert ended.status == 0, ended.output
    found = told.read_text().split("\0")
    assert any(found[start : start + len(WORDS)] == WORDS for start in range(len(found))), json.dumps(found)
    assert not (workplace.folder / "made").exists()
