"""What a rank does not import with TensorFlow, and that it is there all the same for whoever asks."""

import sys
from pathlib import Path

from tests.conftest import run_command

PROGRAM = """
import gc, sys
from horovod_flowers.ranks.tensorflow_import import UNUSED, import_tensorflow

import_tensorflow()
assert "tensorflow" in sys.modules and "keras" in sys.modules
assert gc.isenabled()
assert gc.get_freeze_count() > 100_000
print([name for name in UNUSED if name in sys.modules])

import matplotlib.pyplot, keras, sklearn.metrics

print(sklearn.metrics.accuracy_score([0, 1], [0, 0]), keras.ops.add(1, 2).numpy())
"""


def test_plots_and_scikit_learn_are_left_out_until_somebody_imports_them(tmp_path: Path) -> None:
    ended = run_command([sys.executable, "-c", PROGRAM], tmp_path, variables={"TF_CPP_MIN_LOG_LEVEL": "3"})
    assert ended.status == 0, ended.output
    assert ended.stdout == "[]\n0.5 3\n"


def test_commands_import_neither_keras_nor_tensorflow(tmp_path: Path) -> None:
    """Mistakes are told before, and threads, cores and Keras' settings are set before."""
    commands = ("train", "evaluate", "predict", "export", "prepare", "preflight.__main__", "study.__main__", "launcher")
    program = "; ".join(f"import horovod_flowers.{name}" for name in commands)
    asked = "import sys; print([name for name in ('keras', 'tensorflow') if name in sys.modules])"
    ended = run_command([sys.executable, "-c", f"{program}; {asked}"], tmp_path)
    assert (ended.status, ended.stdout) == (0, "[]\n"), ended.output


def test_what_was_imported_before_stays(tmp_path: Path) -> None:
    program = (
        "import sklearn.metrics, horovod_flowers.ranks.tensorflow_import as t; t.import_tensorflow(); import sklearn"
    )
    ended = run_command([sys.executable, "-c", f"{program}; assert sklearn.metrics"], tmp_path)
    assert ended.status == 0, ended.output
