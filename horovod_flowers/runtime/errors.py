"""The exceptions that are no defects: what a user can put right, and a job that was asked to end."""

import re

_AROUND = re.compile(r"Exception encountered when calling .*?\.\n\n(?P<it>.*?)(\n\nArguments received by .*)?", re.S)
"""Keras' page about a layer, around what the layer says."""
_COLOURS = re.compile(r"\x1b\[[0-9;]*m")


class UserError(Exception):
    """A mistake in the command, the files or the launch.

    The message is one sentence: what was given, what is allowed, what to try. Commands print it without a
    traceback and exit with status 2 (`exit.error_boundary`).
    """


class AgreedError(UserError):
    """One that every rank raises at the same place, so that they could go on together."""


def first_line(error: BaseException) -> str:
    """What an exception says, in one line that is not too long."""
    said = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    text = harmless(" ".join(said.split())) or type(error).__name__
    return text if len(text) <= 200 else f"{text[:199]}…"


def cause(error: BaseException) -> str:
    """The type of an exception and what it says, in one line: of TensorFlow's pages of text the error in them."""
    within = re.findall(r"^(?:[\w.]*\.)?(\w*(?:Error|Exception|Exit)): (.+)$", str(error), re.MULTILINE)
    if "\n" in str(error).strip() and within:
        return f"{within[-1][0].lstrip('_')}: {within[-1][1]}"[:400]
    said = first_line(error) if isinstance(error, OSError) else reason(error)
    return f"{type(error).__name__.lstrip('_')}: {said}" if str(error).strip() else said


def reason(error: BaseException) -> str:
    """What an exception says, in one line: of Keras' pages about a layer the sentence in them."""
    text = _COLOURS.sub("", str(error))
    while (around := _AROUND.fullmatch(text)) is not None:
        text = around["it"]
    text = re.sub(r"\{\{.*?\}\}\s*|\s*\[Op:.*|\s*\w+ received: \[array.*", "", text, flags=re.S)
    line = harmless(" ".join(text.split())) or type(error).__name__
    return line if len(line) <= 400 else f"{line[:399]}…"


def harmless(text: str) -> str:
    """Names of files and words of records may hold what a terminal obeys, or a font lacks: shown as its code instead.

    Bytes of a name that are no UTF-8 become \\udcNN.
    """
    return "".join(letter if letter.isprintable() else ascii(letter)[1:-1] for letter in text)


class JobError(Exception):
    """What ends a job though nobody made a mistake in the command, such as a loss that is not a number.

    The message is one sentence: what happened, where, what is left, what to try. Commands print it without a traceback
    and exit with status 1.
    """


class StorageError(JobError):
    """A file that could not be written, for a reason that lies with the storage: full, read-only, over quota."""


class GoneError(StorageError):
    """A file that could not be written because somebody has renamed or deleted its folder."""


class Stopped(Exception):
    """The job was asked to stop before its end, and did so with everything in its place.

    The message says how far it got. Commands print it and exit with status 75, which tells a job script to put the
    job back in the queue.
    """
