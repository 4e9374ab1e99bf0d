#!/usr/bin/env bash
# Builds the image of containers/Dockerfile and runs commands in it, where no registry can be reached and no daemon runs:
# as root, from a Debian that debootstrap makes, with buildah in a chroot.
#     tests/container/image.sh build [MPI]            make the image localhost/horovod-flowers:MPI (openmpi)
#     tests/container/image.sh run MPI FOLDER COMMAND...    run a command in it, FOLDER being its /work
#     tests/container/image.sh command MPI            what it runs by itself, a word a line
#     tests/container/image.sh remove                 remove images, containers and the Debian
# CONTAINER_STATE (default: ~/.cache/horovod-flowers-container) holds all of it.
set -euo pipefail

project=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")/../.." && pwd)
state=${CONTAINER_STATE:-$HOME/.cache/horovod-flowers-container}
release=bookworm
export BUILDAH_ISOLATION=chroot
# vfs copies where overlay mounts: slower, and works on any file system. With overlay a container's later commands found
# its layers gone.
buildah() { command buildah --storage-driver vfs --root "$state/storage" --runroot "$state/run" "$@"; }

say() { printf 'image.sh: %s\n' "$*" >&2; }
refuse() { say "$*" && exit 2; }

install_tools() {
  ((EUID == 0)) || refuse "root is needed for buildah's chroot"
  if ! command -v buildah >/dev/null || ! command -v debootstrap >/dev/null; then
    say "installing buildah and debootstrap"
    { apt-get update -q && apt-get install -qy --no-install-recommends buildah debootstrap; } >&2
  fi
}

# The site's way to packages: what reaches them here reaches them in the container. Of uv's cache a copy, by hard links where
# it can be, so that builds here and there do not wait for each other.
mounts=()
find_mounts() {
  local path
  for path in /etc/apt/apt.conf.d /etc/pip.conf "${SSL_CERT_FILE:-}"; do
    if [[ -n $path && -e $path ]]; then mounts+=(--volume "$path:$path:ro"); fi
  done
  if [[ ! -d $state/uv ]]; then
    cp -al -- "$HOME/.cache/uv" "$state/uv" 2>/dev/null || { rm -rf -- "$state/uv" && mkdir "$state/uv"; }
  fi
  mounts+=(--volume "$state/uv:/var/cache/uv:rw")
}

base() {
  buildah inspect --type image localhost/debian:$release >/dev/null 2>&1 && return
  say "making a Debian with debootstrap"
  rm -rf -- "$state/debian"
  debootstrap --variant=minbase --include=ca-certificates $release "$state/debian" >"$state/debootstrap.log" 2>&1 ||
    refuse "debootstrap failed: $(tail -n 1 "$state/debootstrap.log")"
  local container
  container=$(buildah from scratch)
  buildah add --quiet "$container" "$state/debian" / >/dev/null
  buildah commit --quiet --rm "$container" localhost/debian:$release >/dev/null
  rm -rf -- "$state/debian"
}

build() {
  local mpi=${1:-openmpi} arguments=()
  if [[ $mpi != openmpi ]]; then arguments=(--build-arg "MPI=$mpi"); fi
  install_tools
  mkdir -p -- "$state"
  base
  find_mounts
  buildah rm "horovod-flowers-$mpi" >/dev/null 2>&1 || true
  buildah build --file "$project/containers/Dockerfile" --ignorefile "$project/containers/Dockerfile.dockerignore" \
    --build-arg "BASE=localhost/debian:$release" --pull-never \
    "${arguments[@]}" ${SSL_CERT_FILE:+--build-arg "SSL_CERT_FILE=$SSL_CERT_FILE"} \
    ${UV_OFFLINE:+--build-arg "UV_OFFLINE=$UV_OFFLINE"} "${mounts[@]}" \
    --tag "localhost/horovod-flowers:$mpi" "$project"
}

# One container for all commands: each is a whole copy of the image.
run() {
  local mpi=$1 folder=$2 container=horovod-flowers-$1
  shift 2
  if ! buildah inspect --type container "$container" >/dev/null 2>&1; then
    buildah from --pull-never --name "$container" "localhost/horovod-flowers:$mpi" >/dev/null
  fi
  buildah run --volume "$folder:/work" "$container" -- "$@"
}

case ${1:-} in
  build | run) "$@" ;;
  command) buildah inspect --type image --format '{{range .OCIv1.Config.Cmd}}{{println .}}{{end}}' "localhost/horovod-flowers:$2" ;;
  remove)
    buildah rm --all >/dev/null || true
    buildah rmi --all --force >/dev/null || true
    rm -rf -- "$state"
    ;;
  *) refuse "give build, run, command or remove" ;;
esac
