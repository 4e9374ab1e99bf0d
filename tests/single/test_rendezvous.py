"""The processes of an elastic job meet through horovodrun's own driver and server, and do not wait for the dead."""

import threading
import time
from collections.abc import Callable
from typing import Any

import pytest

from horovod_flowers.training.elastic.rendezvous import LeftOut, Place, Rendezvous

Worker = Callable[[str, Rendezvous], int]


def variables_of(slot: Any, port: int) -> dict[str, str]:
    """As horovodrun's gloo_run.py sets them."""
    from horovod.runner.gloo_run import create_run_env_vars, create_slot_env_vars

    set_for_all = create_run_env_vars("127.0.0.1", ["lo"], str(port), elastic=True)
    # A process is waited for two seconds.
    return {**create_slot_env_vars(slot), **set_for_all, "HOROVOD_GLOO_TIMEOUT_SECONDS": "0.5"}


def run_job(hosts: dict[str, int], worker: Worker) -> None:
    """Run a job of horovodrun's driver, with threads for processes, to its end."""
    from horovod.runner.elastic.discovery import FixedHosts
    from horovod.runner.elastic.driver import ElasticDriver
    from horovod.runner.elastic.rendezvous import create_rendezvous_handler
    from horovod.runner.http.http_server import RendezvousServer

    server = RendezvousServer()
    driver = ElasticDriver(server, FixedHosts(hosts), min_num_proc=1, max_num_proc=8, timeout=60)
    port = server.start(create_rendezvous_handler(driver))

    def work(slot: Any, events: Any) -> tuple[int, float]:
        return worker(slot.hostname, Rendezvous(variables_of(slot, port))), time.time()

    driver.wait_for_available_slots(sum(hosts.values()))
    driver.start(sum(hosts.values()), work)
    driver.get_results()
    driver.stop()
    server._httpd.server_close()  # Horovod's stop leaves its socket open, which Python says when it is collected


@pytest.mark.timeout(120)
def test_processes_wait_for_one_that_comes_late() -> None:
    places: dict[str, Place] = {}

    def worker(host: str, rendezvous: Rendezvous) -> int:
        if host == "late":
            time.sleep(1)
        places[rendezvous.slot] = rendezvous.meet()
        return 0

    run_job({"early": 2, "late": 1}, worker)
    assert set(places) == {"early:0", "early:1", "late:0"}
    assert sorted(place.rank for place in places.values()) == [0, 1, 2]
    assert {place.size for place in places.values()} == {3}
    told = places["early:1"].variables()
    assert (told["HOROVOD_LOCAL_RANK"], told["HOROVOD_LOCAL_SIZE"], told["HOROVOD_ELASTIC"]) == ("1", "2", "0")


@pytest.mark.slow
@pytest.mark.timeout(120)
@pytest.mark.parametrize("dead", ["a", "b", "c"])  # rank 0's host is among them, whichever that is
def test_processes_go_on_without_one_that_never_comes(dead: str) -> None:
    places: dict[str, Place] = {}

    def worker(host: str, rendezvous: Rendezvous) -> int:
        if host == dead:  # as when ssh does not reach its node
            return 255
        places[host] = rendezvous.meet()
        return 0

    run_job({"a": 1, "b": 1, "c": 1}, worker)
    assert set(places) == {"a", "b", "c"} - {dead}
    assert sorted(place.rank for place in places.values()) == [0, 1]
    assert {place.size for place in places.values()} == {2}


@pytest.mark.timeout(120)
def test_a_process_whose_host_is_left_out_is_told() -> None:
    ended, all_met = threading.Event(), threading.Barrier(3)
    found: list[str] = []

    def worker(host: str, rendezvous: Rendezvous) -> int:
        rendezvous.meet()
        all_met.wait()
        if rendezvous.slot.endswith(":1"):  # its host is put on the blacklist, with the process that is still there
            return 1
        if host == "failing":
            try:
                rendezvous.meet()
            except LeftOut as left:
                found.append(str(left))
            ended.set()
            return 0
        rendezvous.meet()
        ended.wait(60)
        return 0

    run_job({"failing": 2, "other": 1}, worker)
    assert found == ["failing:0"]
