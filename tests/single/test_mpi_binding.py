"""The MPI library's own calls, which are bound before TensorFlow brings functions of the same names."""

import re
import sys
from pathlib import Path

import pytest

from horovod_flowers.mpi.identify import installed_library
from horovod_flowers.mpi.open_mpi import OpenMpi
from tests.conftest import run_command

LOAD = "from horovod_flowers.ranks.mpi_start import load_mpi; load_mpi()"
AT_ITS_END = "hwloc_topology_destroy"


@pytest.mark.skipif(not isinstance(installed_library(), OpenMpi), reason="Open MPI's library has an hwloc within")
def test_calls_within_mpi_are_bound_as_it_is_loaded(tmp_path: Path) -> None:
    """What Open MPI calls for the first time when it ends: TensorFlow 2.21 has a function of that name, too."""
    variables = {"LD_DEBUG": "bindings", "LD_DEBUG_OUTPUT": str(tmp_path / "bindings")}
    assert run_command([sys.executable, "-c", LOAD], tmp_path, variables=variables).status == 0
    (written,) = (file.read_text() for file in tmp_path.glob("bindings.*") if AT_ITS_END in file.read_text())
    bound = re.findall(rf"binding file (\S+) \[0\] to (\S+) \[0\]: normal symbol `{AT_ITS_END}'", written)
    assert "libopen-pal.so.40" in {Path(of).name for of, _ in bound}
    assert {Path(to).name for _, to in bound} == {"libopen-pal.so.40"}
