#!/usr/bin/env bash
# SimGrid for --engine simgrid, from Debian's or Ubuntu's packages.
#   tools/simgrid.sh            as root: installed for all
#   tools/simgrid.sh FOLDER     without root: unpacked into FOLDER, whose usr/bin then has to be on PATH
# Elsewhere: 'spack install simgrid', or the source with cmake (docs/scale.md). PyPI's package has no smpirun.
set -euo pipefail
folder=${1:-}

fail() {
  printf 'simgrid.sh: %s\n' "$*" >&2
  exit 2
}

command -v apt-get >/dev/null || fail "there is no apt-get here: try 'spack install simgrid' (docs/scale.md)"
if [[ -z $folder ]]; then
  ((EUID == 0)) || fail 'without root, name a folder to unpack it into: tools/simgrid.sh FOLDER'
  install() { DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends libsimgrid-dev; }
  # One at a time: others may be installing, too.
  { flock 9 && { install || { apt-get update && install; }; }; } 9>/var/lock/flowers-apt
  exit
fi

mkdir -p -- "$folder"
folder=$(cd -- "$folder" && pwd)
downloads=$(mktemp -d)
trap 'rm -r -- "$downloads"' EXIT
# What an installation would bring, but for the headers of Boost, which only compiling needs.
mapfile -t packages < <(apt-get install --simulate --no-install-recommends libsimgrid-dev |
  awk '$1 == "Inst" && $2 !~ /^libboost.*-dev$/ { print $2 }')
((${#packages[@]})) || fail 'nothing to unpack: libsimgrid-dev is installed here already'
(cd -- "$downloads" && apt-get download "${packages[@]}")
for package in "$downloads"/*.deb; do dpkg --extract "$package" "$folder"; done
# smpirun names the places of its parts.
sed -i "s|/usr/lib/|$folder/usr/lib/|g" "$folder/usr/bin/smpirun"
printf 'SimGrid is in %s. Before --engine simgrid:\n  export PATH=%s/usr/bin:%s\n' "$folder" "$folder" "\$PATH"
