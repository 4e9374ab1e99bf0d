"""Standard output and error, whatever the caller made of them: closed, full, or with nobody who reads them."""

import contextlib
import os
import sys
import traceback
from typing import TextIO


def open_where_closed() -> None:
    """Let standard input, output and error lead nowhere where the caller has closed them (`>&-`).

    Python then has no stream to print to, and the next file that is opened would get their number: what a library or a
    started program prints would end in it.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            opened = os.open(os.devnull, os.O_RDWR)  # the lowest number that is free, which is this one
            if opened != number:
                os.dup2(opened, number)
                os.close(opened)
            os.set_inheritable(number, True)
    # A name of its own: open(1) would close the number with the stream.
    sys.stdout = sys.stdout or open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115
    sys.stderr = sys.stderr or open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115


def output_that_failed(error: BaseException) -> str | None:
    """Which of the two an error came from, and what that leads to; None where it came from elsewhere.

    Drops what it still held. A stream that buffers fails again; of one that does not, the line that printed tells.
    """
    if failed := drop_what_fails():
        return failed
    innermost = traceback.extract_tb(error.__traceback__)[-1:]
    for frame in innermost if getattr(error, "filename", None) is None else ():
        if "print(" in (frame.line or "") or f"{os.sep}rich{os.sep}" in frame.filename:
            stream = "error" if "stderr" in (frame.line or "") else "output"
            return _lead_nowhere_by_name(stream)
    return None


def drop_what_fails() -> str | None:
    """Write what the two still hold: of one that fails, which it is and what it leads to; it leads nowhere then."""
    for name in ("output", "error"):
        try:
            _stream(name).flush()
        except (OSError, ValueError):
            return _lead_nowhere_by_name(name)
    return None


def _stream(name: str) -> TextIO:
    return sys.stdout if name == "output" else sys.stderr


def _lead_nowhere_by_name(name: str) -> str:
    leads_to = _target(_stream(name))
    lead_nowhere(_stream(name))
    return f"the standard {name}{leads_to}"


def lead_nowhere(stream: TextIO) -> None:
    """Drop what else is printed there: Python would complain of it at its end."""
    with contextlib.suppress(OSError, ValueError):
        opened = os.open(os.devnull, os.O_WRONLY)
        os.dup2(opened, stream.fileno())
        os.close(opened)


def _target(stream: TextIO) -> str:
    with contextlib.suppress(OSError, ValueError):
        return f" to {os.readlink(f'/proc/self/fd/{stream.fileno()}')}"
    return ""
