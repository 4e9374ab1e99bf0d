"""One step of every rank as a time-independent trace, which smpirun replays.

A rank is two actors on its node. One computes, and tells the other what is ready; the other is Horovod's background
thread: it makes one call after the other, in their order, and tells the first what is there. Calls are written as their
messages, since the replay knows no groups of ranks, and aborts in MPI_Reduce_scatter of 256.

Latency is time that the receiver spends after a message has come: so each has one, whatever its way through the
network, and merged messages have all of theirs.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from horovod_flowers.scaling_model.algorithms import LinkTerms, MessageCost
from horovod_flowers.scaling_model.call_model import CallModel
from horovod_flowers.scaling_model.schedule import ScheduledStep
from horovod_flowers.scaling_model.simgrid.rounds import AtOnce, Round, link_terms, rounds_of
from horovod_flowers.scaling_model.step_tasks import Call

MOST_MESSAGES = 500_000
"""Of a simulation, whose time grows with them (some 10 us each): equal rounds are merged to keep to it."""
FEWEST_ROUNDS = 16
"""Into which equal ones are merged, however many messages that gives."""
_LARGEST_COUNT = 2**30  # of what a line of a trace may send: an int
_BYTE, _SIXTEEN_BYTES = 6, 14  # types by SimGrid's numbers: MPI_BYTE, MPI_LONG_DOUBLE
_ENVELOPE_BYTES = 16  # that SimGrid adds to each message
_MESSAGE_TAG = 0  # calls count from 1


@dataclass(frozen=True)
class Piece:
    """Computing of some seconds, when the calls that it waits for have ended."""

    seconds: float
    waits_for: tuple[int, ...] = ()
    """Positions in the program's calls."""


@dataclass(frozen=True)
class SerialCall:
    """A call of Horovod's thread, after the one before it in the program."""

    call: Call
    after_pieces: int = 0
    """Ready when so many pieces of computing have ended."""
    seconds_before: float = 0.0
    """Of Horovod's own, once it is ready."""


@dataclass(frozen=True)
class StepProgram:
    """What every rank does in a step."""

    calls: tuple[SerialCall, ...]
    pieces: tuple[Piece, ...] = ()


def program_of(scheduled: ScheduledStep) -> StepProgram:
    """The step of a schedule: pieces and calls as it orders them, and Horovod's time before each call."""
    tasks = scheduled.tasks
    in_order = sorted(range(len(tasks)), key=lambda number: (scheduled.starts[number], number))
    computing = [number for number in in_order if tasks[number].call is None]
    calls = [number for number in in_order if tasks[number].call is not None]
    piece_of = {number: place for place, number in enumerate(computing)}
    place_of = {number: place for place, number in enumerate(calls)}
    serial, free = [], 0.0
    for number in calls:
        task = tasks[number]
        assert task.call is not None
        ready = max((scheduled.ends[other] for other in task.after), default=0.0)
        after_pieces = max((piece_of[other] + 1 for other in task.after if other in piece_of), default=0)
        serial.append(SerialCall(task.call, after_pieces, max(0.0, scheduled.starts[number] - max(ready, free))))
        free = scheduled.ends[number]
    pieces = [
        Piece(tasks[n].seconds, tuple(place_of[other] for other in tasks[n].after if other in place_of))
        for n in computing
    ]
    return StepProgram(tuple(serial), tuple(pieces))


def write_trace(
    program: StepProgram, ranks: int, model: CallModel, folder: Path, slower: float, most_messages: int = MOST_MESSAGES
) -> tuple[Path, list[str]]:
    """Write the trace of each actor into `folder`; times are `slower` times as long.

    Returns the file that lists the traces, and the node of each actor. Raises UserError for a call that cannot be
    simulated.
    """
    threads = _threads_of(program, ranks, model, slower, most_messages)
    computing = _compute_of(program, slower) if program.pieces else None
    traces = []
    for actor in range(ranks if computing is None else 2 * ranks):
        rank = actor % ranks
        lines = threads[rank] if actor < ranks else computing(rank, ranks) if computing else []
        path = folder / f"{actor}.trace"
        path.write_text("".join(f"{actor} {line}\n" for line in ["init", *lines, "waitall", "finalize"]))
        traces.append(str(path))
    listed = folder / "traces"
    listed.write_text("".join(f"{path}\n" for path in traces))
    nodes = [f"node{rank // model.ranks_per_node}" for rank in range(ranks)]
    return listed, nodes * (len(traces) // ranks)


def _compute_of(program: StepProgram, slower: float) -> Callable[[int, int], list[str]]:
    """The lines of the actor that computes, of (rank, ranks)."""

    def lines(rank: int, ranks: int) -> list[str]:
        found, told = [], _ready_after(program)
        found += [f"isend {rank} {call + 1} 1" for call in told.get(0, ())]
        there: set[int] = set()
        for number, piece in enumerate(program.pieces, start=1):
            found += [f"recv {rank} {call + 1} 1" for call in piece.waits_for if call not in there]
            there.update(piece.waits_for)
            if piece.seconds > 0:
                found.append(f"sleep {piece.seconds * slower:.12g}")
            found += [f"isend {rank} {call + 1} 1" for call in told.get(number, ())]
        return found

    return lines


def _ready_after(program: StepProgram) -> dict[int, list[int]]:
    """Calls by the pieces that have to end before."""
    found: dict[int, list[int]] = {}
    for number, serial in enumerate(program.calls):
        found.setdefault(serial.after_pieces, []).append(number)
    return found


def _threads_of(
    program: StepProgram, ranks: int, model: CallModel, slower: float, most_messages: int
) -> list[list[str]]:
    """The lines of Horovod's thread on each rank."""
    most_rounds = max(FEWEST_ROUNDS, most_messages // (ranks * max(1, len(program.calls))))
    awaited = {call for piece in program.pieces for call in piece.waits_for}
    lines: list[list[str]] = [[] for _ in range(ranks)]
    for number, serial in enumerate(program.calls):
        group = serial.call.group
        rounds = rounds_of(
            serial.call.operation, model.algorithm(serial.call), serial.call.bytes, group.size, most_rounds
        )
        for rank, own in enumerate(lines):
            if program.pieces:
                own.append(f"recv {ranks + rank} {number + 1} 1")
            if serial.seconds_before > 0:
                own.append(f"sleep {serial.seconds_before * slower:.12g}")
        for which in range(ranks // group.size):
            members = group.members(which)
            for place, rank in enumerate(members):
                lines[rank] += _messages(rounds, place, members, model, slower)
        if number in awaited:
            for rank, own in enumerate(lines):
                own.append(f"isend {ranks + rank} {number + 1} 1")
    return lines


def _messages(
    rounds: Sequence[Round | AtOnce], place: int, members: Sequence[int], model: CallModel, slower: float
) -> Iterator[str]:
    """What one rank of a group sends and receives."""
    own = members[place]
    for part in rounds:
        terms = link_terms(part, len(members))
        if isinstance(part, AtOnce):
            yield from _at_once(part, terms, place, members, model, slower)
            continue
        to, of = (None if found is None else members[found] for found in (part.sends_to(place), part.hears_from(place)))
        sent, heard = ("" if other is None else _size(terms, other, own, model) for other in (to, of))
        if to is not None and of is not None:
            (count, kind), (heard_count, heard_kind) = sent.split(), heard.split()
            yield f"sendRecv {count} {to} {heard_count} {of} {kind} {heard_kind}"
        elif to is not None:
            yield f"send {to} {_MESSAGE_TAG} {sent}"
        elif of is not None:
            yield f"recv {of} {_MESSAGE_TAG} {heard}"
        partner = of if of is not None else to
        if partner is not None:  # a sender, too, is busy until the message is there
            seconds = terms.messages * _link(partner, own, model)[0].latency_seconds
            seconds += part.times * part.bytes * model.added_seconds_per_byte if part.added and of is not None else 0.0
            if seconds > 0:
                yield f"sleep {seconds * slower:.12g}"


def _at_once(
    part: AtOnce, terms: LinkTerms, place: int, members: Sequence[int], model: CallModel, slower: float
) -> Iterator[str]:
    """All receives and all sends, then one latency. Messages within a node share what a rank has there."""
    own, others = members[place], [rank for rank in members if rank != members[place]]
    to = ([members[0]] if place else []) if part.to_root else others
    of = others if not part.to_root or place == 0 else []
    inside = max(1, sum(_inside(rank, own, model) for rank in others))

    def size(other: int) -> str:
        return _size(terms, other, own, model, inside if _inside(other, own, model) else 1)

    yield from (f"irecv {rank} {_MESSAGE_TAG} {size(rank)}" for rank in of)
    yield from (f"isend {rank} {_MESSAGE_TAG} {size(rank)}" for rank in to)
    yield from (f"wait {rank} {own} {_MESSAGE_TAG}" for rank in of)
    yield from (f"wait {own} {rank} {_MESSAGE_TAG}" for rank in to)
    if of:
        yield f"sleep {max(_link(rank, own, model)[0].latency_seconds for rank in of) * slower:.12g}"


def _inside(one: int, other: int, model: CallModel) -> bool:
    """Whether two ranks are on the same node."""
    return one // model.ranks_per_node == other // model.ranks_per_node


def _link(one: int, other: int, model: CallModel) -> tuple[MessageCost, float]:
    """What messages between two ranks cost, and the rate of the simulated link: bytes a second."""
    if _inside(one, other, model):
        inner = model.network.in_node or model.network.between_nodes
        return model.in_node, inner.bytes_per_second
    return model.between_nodes, model.network.between_nodes.bytes_per_second


def _size(terms: LinkTerms, one: int, other: int, model: CallModel, times: float = 1.0) -> str:
    """Of a message, as a count and a type, without the envelope: so many bytes that it takes the link as long as the
    model says of messages of its kind and size.
    """
    cost, rate = _link(one, other, model)
    own = max(0.0, times * (cost.seconds(terms) - terms.messages * cost.latency_seconds) * rate - _ENVELOPE_BYTES)
    return f"{round(own)} {_BYTE}" if own < _LARGEST_COUNT else f"{round(own / 16)} {_SIXTEEN_BYTES}"
