"""Runs a command on ranks: the launcher's job, and whether its end is what it seems to be."""

import os
import shutil
import signal
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import IO, Any

from horovod_flowers.launch.job import Ending, run_job
from horovod_flowers.launch.launchers import Launcher
from horovod_flowers.launch.rank_reports import folder_for_reports, reported, reporting, status_of
from horovod_flowers.runtime.exit import EXIT_FAILURE, EXIT_STOPPED, EXIT_USER_ERROR

SECONDS_TO_TRY = 120.0
"""For a launcher that is asked to start its ranks once more."""
WORD = "horovod_flowers-rank-ran"
OWN_STATUSES = (EXIT_FAILURE, EXIT_USER_ERROR, EXIT_STOPPED)
"""Of this package's commands, below 128."""


def run_ranks(
    launcher: Launcher,
    ranks: int,
    words: Sequence[str],
    *,
    output: IO[Any] | None = None,
    timeout_seconds: float | None = None,
    own: bool = False,
) -> Ending:
    """Run a command on so many ranks to its end, as `job.run_job` does.

    A job that ends with status 0 though its ranks did not run has status 1, and a sentence that says so. One whose
    ranks say that they ended with another status has that one.

    `own`: of this package's commands, whose ranks wait for each other at their end, and which never end by themselves
    with the bare number of a signal: a launcher that tells so of a rank that was killed gets a shell's 128 + number.
    """
    here, variables = launcher.slots.known_by == "this machine", variables_of(launcher)
    with folder_for_reports(here) as folder:
        ending = run_job(
            launcher.command(ranks, reporting(words, folder)),
            output=output,
            timeout_seconds=timeout_seconds,
            variables=variables,
            ranks_end_together=own,
            folder=folder,
        )
        ending = replace(ending, ranks_seen=reported(folder, ranks, here or ending.status != 0))
        if ending.status == 0 and not ending.timed_out and ending.ranks_seen < ranks:
            problem = problem_of(launcher, ranks)
            ending = ending if problem is None else replace(ending, status=EXIT_FAILURE, given_up=problem)
        told = status_of(folder)
        # Tasks of srun that a mistake ends one after the other: it kills those that are left.
        by_a_mistake = told == EXIT_USER_ERROR and launcher.signal_of(ending.status) == signal.SIGKILL
        if not ending.timed_out and (ending.status == 0 or by_a_mistake):
            ending = replace(ending, status=told)
    killed_by = launcher.signal_of(ending.status)
    if own and killed_by is not None and ending.status > 0:
        ending = replace(ending, status=128 + killed_by)
    return ending


def variables_of(launcher: Launcher) -> dict[str, str]:
    """What the launcher is to find in the environment, which it does not find there."""
    found = {name: value for name, value in launcher.variables().items() if name not in os.environ}
    if shutil.which(launcher.name) is None:  # beside this Python, where it looks for its own programs
        found["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', os.defpath)}"
    return found


def problem_of(launcher: Launcher, ranks: int) -> str | None:
    """Why a job is no success that ended with status 0 and whose ranks have not all reported; None where it is one.

    Ranks on another node may have seen no folder to report in. So the launcher starts as many once more, which say a
    word each where it is heard.
    """
    with tempfile.TemporaryFile() as file:
        words = launcher.command(ranks, ["sh", "-c", f"echo {WORD}"])
        run_job(words, output=file, timeout_seconds=SECONDS_TO_TRY, variables=variables_of(launcher))
        file.seek(0)
        ran = file.read().count(WORD.encode())
    if ran == ranks:
        return None
    return (
        f"{launcher.name} ended with status 0, but {f'{ran} of {ranks} ranks' if ran else 'none of its ranks'} ran: "
        "look at what it says above, and at FLOWERS_LAUNCHER_OPTIONS; --dry-run prints the command"
    )


def abrupt_end(launcher: Launcher, ending: Ending, own: bool) -> str | None:
    """A sentence, without its stop, on a rank that was ended by what nobody here has sent; None where none was."""
    if ending.asked_to_stop is not None or ending.given_up is not None:
        return None
    manager = launcher.manager
    known = manager is not None and ending.status == manager.abrupt_status
    # Such as 14 of srun, where the other ranks are of Open MPI 5 and hear of the killed one first.
    strange = own and 0 < ending.status < 128 and ending.status not in OWN_STATUSES
    if (known or strange) and ending.ranks_seen > 0:
        name = manager.name if known and manager is not None else launcher.name
        return (
            f"a rank was ended by a signal, or left without ending MPI: {name}'s status {ending.status} tells no more; "
            "the lines above name it (SIGKILL: its node ran out of memory, or it was killed by hand)"
        )
    if launcher.signal_of(ending.status) != signal.SIGKILL:
        return None
    maybe = "" if own or ending.exit_status > 128 else f", or ended with status {ending.exit_status} by itself"
    return (
        f"a rank was killed (SIGKILL: its node ran out of memory, or it was killed by hand{maybe}); the lines above "
        "name it"
    )
