"""Where ranks may be placed: nodes that somebody names, a scheduler's allocation, or this machine."""

import os
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeAlias

from horovod_flowers.launch.job_environment import slurm_layout
from horovod_flowers.runtime.errors import UserError
from horovod_flowers.runtime.machine import core_of

KnownBy: TypeAlias = Literal["hosts", "slurm", "pbs", "this machine"]


@dataclass(frozen=True)
class Slots:
    """Where ranks may be placed: nodes in the order in which they are filled, and the ranks that fit on each."""

    nodes: tuple[tuple[str, int], ...]
    known_by: KnownBy

    @property
    def total(self) -> int:
        """Ranks that fit on all of them."""
        return sum(count for _, count in self.nodes)

    def __str__(self) -> str:
        return ",".join(f"{node}:{count}" for node, count in self.nodes)


def find_slots(hosts: str | None, environment: Mapping[str, str]) -> Slots:
    """Nodes and slots from `hosts`, else Slurm's or PBS' allocation, else this machine's cores. Raises UserError."""
    if hosts:
        return Slots(tuple(_parse_host(word) for word in hosts.split(",")), "hosts")
    if "SLURM_JOB_NODELIST" in environment:
        names = _slurm_hostnames(environment["SLURM_JOB_NODELIST"])
        return Slots(tuple(zip(names, _slurm_slots(len(names), environment), strict=False)), "slurm")
    if "PBS_NODEFILE" in environment:
        try:
            lines = Path(environment["PBS_NODEFILE"]).read_text(encoding="utf-8").split()
        except OSError as error:
            raise UserError(f"PBS_NODEFILE cannot be read ({error.strerror}): give --hosts") from error
        # Where jobs ask for whole nodes, each is there once, however many ranks are meant.
        most = tasks_per_node(environment) if len(set(lines)) == len(lines) else 1
        return Slots(tuple((node, max(most, lines.count(node))) for node in dict.fromkeys(lines)), "pbs")
    cores = {core_of(cpu) for cpu in os.sched_getaffinity(0)}
    return Slots(((os.uname().nodename, len(cores)),), "this machine")


def tasks_per_node(environment: Mapping[str, str]) -> int:
    """FLOWERS_TASKS_PER_NODE, for a scheduler that does not tell; 1 where it is not set. Raises UserError."""
    given = environment.get("FLOWERS_TASKS_PER_NODE", "").strip() or "1"
    if not given.isdecimal() or int(given) < 1:
        raise UserError(f"FLOWERS_TASKS_PER_NODE is {given!r}: give the number of ranks for each node, such as 4")
    return int(given)


def _parse_host(word: str) -> tuple[str, int]:
    node, _, count = word.strip().partition(":")
    if not node or not (count or "1").isdigit() or int(count or 1) < 1:
        raise UserError(f"hosts names {word!r}: give NODE:RANKS, separated by commas, such as n1:2,n2:2")
    return node, int(count or 1)


def _slurm_hostnames(nodelist: str) -> list[str]:
    try:
        listed = subprocess.run(
            ["scontrol", "show", "hostnames", nodelist], capture_output=True, text=True, timeout=60, check=True
        )
    except (OSError, subprocess.SubprocessError) as error:
        raise UserError(f"scontrol cannot list the nodes {nodelist} ({error}): give --hosts") from error
    return listed.stdout.split()


def _slurm_slots(nodes: int, environment: Mapping[str, str]) -> list[int]:
    """Tasks a node of the allocation."""
    counts = slurm_layout(environment.get("SLURM_TASKS_PER_NODE", "1"))
    return (counts + counts[-1:] * nodes)[:nodes]
