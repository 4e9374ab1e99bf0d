"""What MPIs say of themselves, as recorded, and programs that say it."""

from pathlib import Path

LAUNCHERS = {
    "Open MPI 4.1.8": "mpirun (Open MPI) 4.1.8\n\nReport bugs to http://www.open-mpi.org/community/help/\n",
    "Open MPI 5.0.11": "mpirun (Open MPI) 5.0.11\n\nReport bugs to https://www.open-mpi.org/community/help/\n",
    "MPICH's Hydra 5.0.2": (
        "HYDRA build details:\n    Version:                                 5.0.2\n"
        "    Release Date:                            Fri Sep 25 20:45:26 UTC 2026\n"
        "    Configure options:                       --with-device=ch4:ucx,ofi --with-pm=hydra:gforker\n"
        "    Launchers available:                     ssh rsh fork slurm ll lsf sge manual persist\n"
    ),
    "Intel MPI 2021.19.0": (
        "Intel(R) MPI Library for Linux* OS, Version 2021.19.0 Build 20260929 (id: 1821d9b)\n"
        "Copyright 2003-2026, Intel Corporation.\n"
    ),
    "PALS 1.4.0": "PALS version 1.4.0\n",  # not recorded: written from public documents
}
"""By name and version, as `mpirun --version` or `mpiexec --version` prints it."""

LIBRARIES = {
    "Open MPI v4.1.8": "Open MPI v4.1.8, package: Open MPI root@host Distribution, ident: 4.1.8, repo rev: v4.1.8",
    "MPICH 5.0.2": "MPICH Version:      5.0.2\nMPICH Release date: Fri Sep 25 20:45:26 UTC 2026\n",
    "Intel MPI 2021.19": "Intel(R) MPI Library 2021.19 for Linux* OS\n",
    "Cray MPICH 8.1.28.15": (
        "MPI VERSION    : CRAY MPICH version 8.1.28.15 (ANL base 3.4a2)\nMPI BUILD INFO : Wed Nov 15 21:59 2023\n"
    ),
    "MVAPICH 2.3.7": "MVAPICH2 Version      :\t2.3.7\nMVAPICH2 Release date :\tWed March 02 22:00:00 EST 2022\n",
    "MVAPICH 3.0": "MVAPICH Version:       3.0\nMVAPICH Release date:  04/10/2023\nMVAPICH ABI:   13:12:1\n",
    "HPE MPT 2.25  08/30/21 03:17:29": "HPE MPT 2.25  08/30/21 03:17:29\n",
}
"""By summary, as MPI.Get_library_version() returns it. Those of Cray, HPE and MVAPICH from public documents."""


def program_that_says(text: str, path: Path, otherwise: str = "exit 0") -> Path:
    """Write a program that prints `text` when it is asked for its version, and else runs a line of shell."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f'#!/bin/sh\n[ "$1" = --version ] && exec /bin/cat "$0.text"\n{otherwise}\n', encoding="utf-8")
    path.with_name(f"{path.name}.text").write_text(text, encoding="utf-8")
    path.chmod(0o755)
    return path
