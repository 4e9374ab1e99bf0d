"""The MPI library's own calls, which are bound before TensorFlow brings functions of the same names."""

import re
import sys
from pathlib import Path

import pytest

from horovod_flowers.mpi.identify import installed_library
from horovod_flowers.mpi.open_mpi import OpenMpi
from tests.conftest import PROJECT, Ended, mpirun, run_command

LOAD = "from horovod_flowers.ranks.mpi_start import load_mpi; load_mpi()"
AT_ITS_END = "hwloc_topology_destroy"
needs_open_mpi = pytest.mark.skipif(
    not isinstance(installed_library(), OpenMpi), reason="Open MPI's library has an hwloc within"
)


@needs_open_mpi
def test_calls_within_mpi_are_bound_as_it_is_loaded(tmp_path: Path) -> None:
    """What Open MPI calls for the first time when it ends: TensorFlow 2.21 has a function of that name, too."""
    variables = {"LD_DEBUG": "bindings", "LD_DEBUG_OUTPUT": str(tmp_path / "bindings")}
    assert run_command([sys.executable, "-c", LOAD], tmp_path, variables=variables).status == 0
    (written,) = (file.read_text() for file in tmp_path.glob("bindings.*") if AT_ITS_END in file.read_text())
    bound = re.findall(rf"binding file (\S+) \[0\] to (\S+) \[0\]: normal symbol `{AT_ITS_END}'", written)
    assert "libopen-pal.so.40" in {Path(of).name for of, _ in bound}
    assert {Path(to).name for _, to in bound} == {"libopen-pal.so.40"}


SCRIPT = """\
from mpi4py import MPI
import horovod_flowers
ranks = horovod_flowers.start()
"""


def of_tensorflow(folder: Path, functions: bytes) -> Path:
    """A package that is found as TensorFlow, whose library has these names of functions in it."""
    package = folder / "site" / "tensorflow"
    package.mkdir(parents=True, exist_ok=True)
    (package / "__init__.py").write_text("raise SystemExit('imported')\n")
    (package / "libtensorflow_framework.so.2").write_bytes(b"\x7fELF\0hwloc_bitmap_dup\0" + functions)
    return folder / "site"


@needs_open_mpi
def test_a_script_that_would_crash_as_it_ends_is_refused(tmp_path: Path) -> None:
    """It has imported mpi4py itself, before TensorFlow, which has functions of Open MPI's names or has not."""
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)

    def start(functions: bytes, **variables: str) -> Ended:
        path = f"{of_tensorflow(tmp_path, functions)}:{PROJECT}"
        return run_command(mpirun(1, sys.executable, script), tmp_path, variables={"PYTHONPATH": path, **variables})

    refused = start(b"hwloc_topology_destroy\0")
    assert (refused.status, refused.output.count("error: "), "Traceback" in refused.output) == (2, 1, False)
    assert "mpi4py.MPI was imported before MPI was started here, so that libmpi.so" in refused.output
    assert "LD_BIND_NOW=1" in refused.output
    for started in (start(b"hwloc_topology_destroys\0"), start(b"hwloc_topology_destroy\0", LD_BIND_NOW="1")):
        assert "imported" in started.output
        assert "mpi4py.MPI was" not in started.output
