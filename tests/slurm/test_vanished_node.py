"""A node whose network goes down in the middle of a run ends the job, and mpirun names it."""

import re
import shlex
import subprocess
from pathlib import Path

from tests.parallel.test_stall import assert_whole
from tests.slurm.conftest import SLOW, Cluster

# mpirun asks a silent node sooner than it does by itself (job.VARIABLES), and long before TCP would give it up.
SOON = {"TIME": "4", "INTVL": "1", "PROBES": "3"}
STALL_SECONDS = "30"


def test_a_node_that_vanishes_ends_the_job(networked: Cluster, prepared_folder: Path) -> None:
    train = ["python", "-m", "horovod_flowers.train", *SLOW, "--data.prepared-dir", str(prepared_folder)]
    train += ["--epochs", "1000", "--name", "v", "--stall-seconds", STALL_SECONDS]
    start = ["python", "-m", "horovod_flowers.launcher", "--ranks", "2", "--", *train]
    of_sbatch = ("-N", "2", "--ntasks-per-node", "1", "--output=v-%j.log", f"--wrap={shlex.join(start)}")
    variables = {f"OMPI_MCA_oob_tcp_keepalive_{name.lower()}": value for name, value in SOON.items()}
    job = networked.submit(*of_sbatch, **variables)
    networked.until(lambda: "epoch 2/1000: " in networked.log(job), "second epoch")
    subprocess.run(["ip", "link", "set", "slurmv2", "down"], check=True)
    try:
        networked.until(lambda: not networked.processes(), "end of all ranks", 90)
    finally:
        subprocess.run(["ip", "link", "set", "slurmv2", "up"], check=True)
    log = networked.log(job)
    assert re.search(r"lost communication with a remote daemon\.\s.*on node n1\s.*on node n2", log, re.DOTALL), log
    assert_whole(networked.folder / "runs" / "v")
    assert networked.wait(job) != "COMPLETED"
