"""What TensorFlow says of itself, which would come once from every rank: CPU features, a missing GPU, each graph."""

import contextlib
import ctypes
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from horovod_flowers.ranks.horovod_build import tensorflow_version

NOTICES = (
    r"^WARNING: All log messages before absl::InitializeLog\(\) is called are written to STDERR$",
    r"^I[0-9]{4} [0-9:.]+ +[0-9]+ [a-z_]+\.cc:[0-9]+\] ",  # I1127 12:00:00.000000 4711 port.cc:153] oneDNN ...
)
"""Lines, as extended regular expressions: notices of Abseil's log (severity I), and what it says ahead of the first."""

LONGEST_SECONDS = 2
"""To wait for the last line to be printed."""


def import_without_notices() -> "contextlib.AbstractContextManager[None]":
    """Leave notices out of what this process prints on standard error while it imports TensorFlow.

    From 2.19 on some are written as its libraries are loaded, whatever TF_CPP_MIN_LOG_LEVEL says, which is read later.
    """
    wanted = os.environ.get("TF_CPP_MIN_LOG_LEVEL", "0") < "1"
    if wanted or "tensorflow" in sys.modules or (tensorflow_version() or "").startswith(("2.16.", "2.17.", "2.18.")):
        return contextlib.nullcontext()
    return without_notices()


@contextlib.contextmanager
def without_notices() -> Iterator[None]:
    """Have a process of its own take them out, so that all the rest is printed even where this one crashes."""
    words = ["sed", "-u", "-E", *(word for notice in NOTICES for word in ("-e", f"/{notice}/d"))]
    variables = {**os.environ, "LC_ALL": "C"}
    sys.stderr.flush()
    original = os.dup(2)
    try:
        sed = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=original, env=variables, start_new_session=True)
    except OSError:  # there is no sed
        os.close(original)
        yield
        return
    assert sed.stdin is not None
    os.dup2(sed.stdin.fileno(), 2)
    try:
        yield
    finally:
        sys.stderr.flush()
        os.dup2(original, 2)
        os.close(original)
        sed.stdin.close()
        with contextlib.suppress(subprocess.TimeoutExpired):  # a process that was started meanwhile has the pipe, too
            sed.wait(LONGEST_SECONDS)


def silence_notices() -> None:
    """Hide what TensorFlow, once imported, says of every graph that it traces or rewrites, by loggers of its own."""
    if os.environ["TF_CPP_MIN_LOG_LEVEL"] < "2":
        return
    import tensorflow as tf

    tf.get_logger().setLevel("ERROR")
    least = _abseil_minimum_level(Path(tf.sysconfig.get_lib()), Path(tf.sysconfig.get_include()))
    if least is not None:
        least(ctypes.c_int(2))  # errors are shown


def _abseil_minimum_level(libraries: Path, headers: Path) -> Any:
    """absl::SetMinLogLevel(LogSeverityAtLeast) of this TensorFlow; None where it is not found.

    Abseil's release is in the name of each of its functions, another one in TensorFlow 2.18 and 2.21, and Abseil's
    header, which TensorFlow brings for extensions such as Horovod, says which.
    """
    try:
        options = (headers / "absl" / "base" / "options.h").read_text(encoding="utf-8")
    except OSError:
        return None
    release = re.search(r"^#define ABSL_OPTION_INLINE_NAMESPACE_NAME (\w+)", options, re.MULTILINE)
    if release is None:
        return None
    name = f"_ZN4absl{len(release[1])}{release[1]}14SetMinLogLevelENS0_18LogSeverityAtLeastE"
    return getattr(ctypes.CDLL(str(libraries / "libtensorflow_framework.so.2")), name, None)
