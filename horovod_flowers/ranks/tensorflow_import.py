"""The import of TensorFlow in little more than half its time: every rank waits for it, at every start.

And with settings of Keras that this suite needs: a file in the home folder or a variable must not decide in which
format a run that says fp32 is trained, nor by which library.
"""

import contextlib
import gc
import json
import os
import sys
from collections.abc import Iterator, MutableMapping
from pathlib import Path
from typing import Any

from horovod_flowers.ranks.onednn import set_onednn_variables
from horovod_flowers.ranks.tensorflow_notices import import_without_notices
from horovod_flowers.runtime.errors import UserError
from horovod_flowers.runtime.machine import cpu_flags

NOTEBOOK_AND_TF1 = ("IPython", "scipy")
"""Keras looks by IPython whether this is a notebook, and finds it where it is, since IPython was imported before then;
TensorFlow asks scipy of models of its first version, which it still imports. A sixth of the time."""
# Keras imports the others, where they are installed, to offer plots and scikit-learn's interface: with what they bring
# a quarter of the time, for nothing that training uses.
UNUSED = (*NOTEBOOK_AND_TF1, "matplotlib", "sklearn")

BACKEND = "tensorflow"
SETTINGS = {"floatx": "float32", "epsilon": 1e-7, "image_data_format": "channels_last"}
"""Of Keras, as it ships."""
_READ_BY_KERAS = {"floatx": ("float16", "float32", "float64"), "image_data_format": ("channels_last", "channels_first")}
"""What keras.json may say: Keras fails at anything else."""
_FOREIGN_VARIABLES = ("TF_USE_LEGACY_KERAS", "KERAS_MAX_EPOCHS", "KERAS_MAX_STEPS_PER_EPOCH")
"""Another Keras behind tf.keras; an early end of whatever Keras' own loops do."""


def check_python(optimize: int = sys.flags.optimize) -> None:
    """Refuse a Python that leaves docstrings out: TensorFlow 2.18 reads some as it is imported (UserError)."""
    if optimize >= 2:
        raise UserError(
            "PYTHONOPTIMIZE=2 (python -OO) leaves docstrings out, without which TensorFlow cannot be imported: unset "
            "it, or set it to 1"
        )


def import_tensorflow(bf16: bool = False) -> str | None:
    """Import TensorFlow, and Keras with it, without what Keras imports only in case it is asked for.

    Keras runs on TensorFlow with the SETTINGS afterwards, and oneDNN computes in fp32 or as `--precision` says (`bf16`:
    whether it may come to that), whatever the user's file and variables say: what of them is not used, as a sentence;
    None where they say nothing else. Raises UserError where Keras was imported on another library before, or cannot
    read its file, and where this Python cannot.
    """
    check_python()
    of_keras = [*_settings_in_file(), *set_keras_variables(os.environ)]
    of_onednn = set_onednn_variables(os.environ, cpu_flags(), bf16)
    _import(UNUSED)
    _set_keras()
    sentences = []
    if of_keras:
        sentences.append(
            f"settings of Keras are not used ({', '.join(of_keras)}): this suite works with TensorFlow, float32 and "
            "channels_last"
        )
    if of_onednn:
        sentences.append(
            f"settings of oneDNN are not used ({', '.join(of_onednn)}): --precision says in which format is computed"
        )
    return "; ".join(sentences) or None


def import_for_script() -> None:
    """Import TensorFlow, and Keras with it, for a person's own script, whose settings of Keras stay.

    Raises UserError where Keras does not run on TensorFlow, and where this Python cannot import it.
    """
    check_python()
    _import(NOTEBOOK_AND_TF1)
    import keras

    if keras.config.backend() != BACKEND:
        raise UserError(
            f"Keras runs on {keras.config.backend()} here (KERAS_BACKEND, or keras.json), and ranks train together on "
            f"TensorFlow alone: set KERAS_BACKEND={BACKEND}"
        )


def _import(hidden: tuple[str, ...]) -> None:
    """Import TensorFlow, packages of these names hidden from it."""
    # Hundreds of thousands of objects are made, none of which is garbage: another quarter goes into looking for some.
    collecting = gc.isenabled()
    gc.disable()
    try:
        with _not_installed(hidden), import_without_notices():
            import tensorflow  # noqa: F401  (and with it Keras)
    finally:
        if collecting:
            gc.enable()
    gc.freeze()  # nor is it looked for later among what was imported


def set_keras_variables(variables: MutableMapping[str, str]) -> list[str]:
    """Let processes with these variables import Keras on TensorFlow; what was set otherwise, as NAME=VALUE."""
    replaced = []
    if variables.get("KERAS_BACKEND") not in (None, "", BACKEND):
        replaced.append(f"KERAS_BACKEND={variables['KERAS_BACKEND']}")
    variables["KERAS_BACKEND"] = BACKEND  # it counts more than the file
    for name in _FOREIGN_VARIABLES:
        if (value := variables.pop(name, "")) not in ("", "0", "False"):
            replaced.append(f"{name}={value}")
    return replaced


def check_keras_settings(who: str) -> None:
    """Refuse settings of Keras that somebody's code has changed (UserError): what is recorded would not be true."""
    import keras

    for name in ("floatx", "image_data_format"):
        found = getattr(keras.config, name)()
        if found != SETTINGS[name]:
            getattr(keras.config, f"set_{name}")(SETTINGS[name])
            raise UserError(
                f"{who} sets Keras' {name} to {found}, and this suite works with {SETTINGS[name]}: leave out "
                f"keras.config.set_{name}"
            )


def _set_keras() -> None:
    import keras

    if keras.config.backend() != BACKEND:
        raise UserError(
            f"Keras was imported on {keras.config.backend()} before in this process: set KERAS_BACKEND={BACKEND} first"
        )
    keras.config.set_floatx(SETTINGS["floatx"])
    keras.config.set_epsilon(SETTINGS["epsilon"])
    keras.config.set_image_data_format(SETTINGS["image_data_format"])
    keras.config.set_dtype_policy(SETTINGS["floatx"])  # Keras may have taken the file's for it


def _settings_in_file() -> list[str]:
    """What keras.json says that the suite does not go by. Raises UserError where Keras would fail at it."""
    path = _keras_folder() / "keras.json"
    try:
        # As Keras does: contents that are no JSON count as none.
        found: Any = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    except ValueError:
        return []
    except OSError as error:
        raise UserError(f"Keras cannot read {path} ({error.strerror}): change its permissions, or delete it") from error
    if not isinstance(found, dict):
        raise UserError(f"Keras cannot read {path}, which holds no settings: delete it")
    for name, allowed in _READ_BY_KERAS.items():
        if found.get(name, allowed[0]) not in allowed:
            raise UserError(
                f"Keras cannot read {path}, which has {name} {found[name]!r}: allowed are {', '.join(allowed)}"
            )
    if not isinstance(found.get("epsilon", 1.0), float):
        raise UserError(f"Keras cannot read {path}, which has epsilon {found['epsilon']!r}: give one such as 1e-07")
    if found.get("nnx_enabled"):
        raise UserError(f"{path} has nnx_enabled, with which Keras works on JAX alone: take it out")
    expected = {"backend": BACKEND, **SETTINGS}
    other = [f"{name} {found[name]}" for name in expected if found.get(name, expected[name]) != expected[name]]
    return [*other[:-1], f"{other[-1]} in {path}"] if other else []


def _keras_folder() -> Path:
    """Where Keras looks for its file (keras/src/backend/config.py)."""
    if "KERAS_HOME" in os.environ:
        return Path(os.environ["KERAS_HOME"]).expanduser()
    home = os.path.expanduser("~")
    return Path(home if os.access(home, os.W_OK) else "/tmp") / ".keras"


@contextlib.contextmanager
def _not_installed(packages: tuple[str, ...]) -> Iterator[None]:
    """Let imports of packages fail as if they were not there; afterwards they can be imported."""
    hidden = [name for name in packages if name not in sys.modules]
    sys.modules.update(dict.fromkeys(hidden))  # type: ignore[arg-type]  # None stops an import
    try:
        yield
    finally:
        for name in hidden:
            del sys.modules[name]
