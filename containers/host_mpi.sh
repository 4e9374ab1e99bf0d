# shellcheck shell=sh
# Sourced in a container before anything is run: the host's MPI in place of the container's, where FLOWERS_HOST_MPI names the
# folder of its libmpi (bound in). mpi4py loads the library first, and Horovod then gets the same one by its name. Without
# MPI4PY_LIBMPI it would be the container's own, whatever LD_LIBRARY_PATH says.
if [ -n "${FLOWERS_HOST_MPI:-}" ]; then
  LD_LIBRARY_PATH=$FLOWERS_HOST_MPI${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}
  MPI4PY_LIBMPI=
  for library in "$FLOWERS_HOST_MPI"/libmpi.so.12 "$FLOWERS_HOST_MPI"/libmpi.so.40; do
    if [ -z "$MPI4PY_LIBMPI" ] && [ -e "$library" ]; then MPI4PY_LIBMPI=$library; fi
  done
  if [ -z "$MPI4PY_LIBMPI" ]; then
    echo "FLOWERS_HOST_MPI is '$FLOWERS_HOST_MPI', where there is neither libmpi.so.12 nor libmpi.so.40: bind the folder of the host's libmpi into the container (--bind), and name it as it is called there" >&2
    exit 2
  fi
  export LD_LIBRARY_PATH MPI4PY_LIBMPI
  unset library
fi
