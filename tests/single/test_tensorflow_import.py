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

import IPython, matplotlib.pyplot, keras, scipy.sparse, sklearn.metrics

print(sklearn.metrics.accuracy_score([0, 1], [0, 0]), keras.ops.add(1, 2).numpy())
"""


def test_plots_and_scikit_learn_are_left_out_until_somebody_imports_them(tmp_path: Path) -> None:
    ended = run_command([sys.executable, "-c", PROGRAM], tmp_path, variables={"TF_CPP_MIN_LOG_LEVEL": "3"})
    assert ended.status == 0, ended.output
    assert ended.stdout == "[]\n0.5 3\n"


def test_a_script_finds_all_that_keras_offers_with_other_packages(tmp_path: Path) -> None:
    program = (
        "import sys, horovod_flowers\nhorovod_flowers.start()\n"
        "print([name for name in ('IPython', 'scipy') if name in sys.modules])\n"
        "import keras, numpy, scipy.sparse\n"
        "keras.wrappers.SKLearnClassifier, keras.callbacks.RemoteMonitor, keras.visualization.plot_image_gallery\n"
        "model = keras.Sequential([keras.Input((2,), sparse=True), keras.layers.Dense(1)])\n"
        "print(model.predict(scipy.sparse.csr_matrix(numpy.eye(2, dtype='float32')), verbose=0).shape)\n"
    )
    ended = run_command([sys.executable, "-c", program], tmp_path, variables={"TF_CPP_MIN_LOG_LEVEL": "3"})
    assert ended.status == 0, ended.output
    assert ended.stdout.splitlines()[-2:] == ["[]", "(2, 1)"]


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
