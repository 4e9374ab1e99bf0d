"""Records of measured peaks."""

from typing import Any

from horovod_flowers.runlog.machine_peak import MachinePeak, TimedProducts


def peak_record(flops_per_second: float = 5e10, precision: str = "fp32", **changed: Any) -> MachinePeak:
    """Of two ranks with a thread each, as those of recorded_runs.py; `flops_per_second`: of each."""
    seconds = 2 * 1000**3 * 2 / flops_per_second
    found: dict[str, Any] = {"schema": 1, "world_size": 2, "hosts": ["node"], "ranks_per_node": [2]}
    found |= {"cpu_models": ["Test CPU"], "cpu_features": [[]], "gpus": [None, None], "threads": 1, "physical_cores": 1}
    found |= {"oversubscribed": False, "versions": {}, "started_utc": "t", "command": []}
    slow = TimedProducts(precision=precision, size=100, products=2, seconds=[seconds])
    products = TimedProducts(precision=precision, size=1000, products=2, seconds=[2 * seconds, seconds])
    return MachinePeak(**(found | {"measured": [slow, products]} | changed))
