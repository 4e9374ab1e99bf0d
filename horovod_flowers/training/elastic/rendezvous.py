"""How the processes of an elastic job meet: which rank each has, and that all are there, before Horovod starts.

horovodrun assigns ranks to slots whenever a process was lost or a host has come. Horovod itself then waits 30 s for all
of them, and where one does not come (its node does not answer, say) ends those that waited. So they meet here first:
rank 0 sees that all have come, or else sends all back to ask for ranks anew. No TensorFlow here.
"""

import queue
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping
from dataclasses import astuple, dataclass

ARRIVED, VERDICT = "flowers.arrived", "flowers.verdict"
_GO, _AGAIN = b"go", b"again"
_VARIABLES = ("RANK", "SIZE", "LOCAL_RANK", "LOCAL_SIZE", "CROSS_RANK", "CROSS_SIZE")
_REQUEST_SECONDS = 30.0
_LOOK_SECONDS = 0.2


@dataclass(frozen=True)
class Place:
    """A process among those of the job, as horovodrun assigns it."""

    rank: int
    size: int
    local_rank: int
    local_size: int
    cross_rank: int
    cross_size: int

    def variables(self) -> dict[str, str]:
        """What Horovod starts with."""
        variables = {f"HOROVOD_{name}": str(value) for name, value in zip(_VARIABLES, astuple(self), strict=True)}
        # Else it asks for a rank once more, which counts as being lost once more.
        return variables | {"HOROVOD_ELASTIC": "0"}


class LeftOut(Exception):
    """This process' slot has been taken from the job."""


class Rendezvous:
    """This process and horovodrun's server, through which the processes find each other."""

    def __init__(self, variables: Mapping[str, str]) -> None:
        """Take what horovodrun has set.

        A process is waited for four times as long as Gloo waits in a call: it may have to load TensorFlow first.
        """
        self.slot = f"{variables['HOROVOD_HOSTNAME']}:{variables['HOROVOD_LOCAL_RANK']}"
        """Host, as the discovery script names it, and slot."""
        address, port = variables["HOROVOD_GLOO_RENDEZVOUS_ADDR"], variables["HOROVOD_GLOO_RENDEZVOUS_PORT"]
        self._server = f"http://{address}:{port}"
        self._patience = 4 * float(variables.get("HOROVOD_GLOO_TIMEOUT_SECONDS", "30"))
        self._assigned: Place | None = Place(*(int(variables[f"HOROVOD_{name}"]) for name in _VARIABLES))

    def meet(self, while_waiting: Callable[[], None] = lambda: None) -> Place:
        """Wait until all processes of the next world are there; call `while_waiting` now and then.

        Raises LeftOut where this process is not one of them; OSError where horovodrun has gone.
        """
        found: queue.Queue[Place | Exception] = queue.Queue()
        # In a thread: a server that ends may leave a request without an answer, and a signal has to be heard.
        threading.Thread(target=self._find, args=(found,), name="rendezvous", daemon=True).start()
        while True:
            try:
                place = found.get(timeout=_LOOK_SECONDS)
            except queue.Empty:
                while_waiting()
                continue
            if isinstance(place, Exception):
                raise place
            return place

    def _find(self, found: "queue.Queue[Place | Exception]") -> None:
        try:
            found.put(self._place())
        except Exception as error:
            found.put(error)

    def _place(self) -> Place:
        place = self._assigned or self._ask()
        self._assigned = None
        while not self._all_there(place):
            place = self._ask()
        return place

    def _ask(self) -> Place:
        """The rank in the next world, once every process has asked for its own or has ended."""
        answer = self._get("rank_and_size", self.slot, seconds=None) or b""
        place = Place(*(int(number) for number in answer.decode("ascii").split(",")))
        if place.rank < 0:
            raise LeftOut(self.slot)
        return place

    def _all_there(self, place: Place) -> bool:
        self._put(ARRIVED, str(place.rank), _GO)
        pause = min(2.0, 0.05 + 0.001 * place.size)
        deadline = time.monotonic() + (1 if place.rank == 0 else 2) * self._patience
        missing = set(range(1, place.size))
        while time.monotonic() < deadline:
            if place.rank == 0:
                missing = {rank for rank in missing if self._get(ARRIVED, str(rank)) is None}
                if not missing:
                    break
            elif (verdict := self._get(VERDICT, "world")) is not None:
                return verdict == _GO
            time.sleep(pause)
        if place.rank == 0:
            self._put(VERDICT, "world", _AGAIN if missing else _GO)
        return place.rank == 0 and not missing

    def _get(self, scope: str, key: str, seconds: float | None = _REQUEST_SECONDS) -> bytes | None:
        """None where the server has no such value."""
        try:
            with urllib.request.urlopen(f"{self._server}/{scope}/{key}", timeout=seconds) as answer:
                value: bytes = answer.read()
                return value
        except urllib.error.HTTPError as error:
            if error.code != 404:
                raise
            return None

    def _put(self, scope: str, key: str, value: bytes) -> None:
        request = urllib.request.Request(f"{self._server}/{scope}/{key}", value, method="PUT")
        with urllib.request.urlopen(request, timeout=_REQUEST_SECONDS):
            pass
