#!/usr/bin/env bash
# A real Slurm (munged, slurmctld, a slurmd for each virtual node) on this one machine, without systemd; needs root.
#   cluster.sh start FOLDER NODES [NETWORK]   install what is missing, start, wait until all nodes are idle
#   cluster.sh stop FOLDER                    cancel every job, end the daemons
# Each node is a slurmd in its own UTS and mount namespace: its tasks see their own host name (n1, n2, ...), /dev/shm
# and TmpFS; the rest of the file system is shared, as on a cluster. NETWORK is 'host' (all nodes are the loopback
# device), or 'own': each node has an address 10.77.0.x in a network namespace, on the bridge slurmbr.
set -euo pipefail
command=${1:?usage: cluster.sh start FOLDER NODES [NETWORK], or cluster.sh stop FOLDER}
folder=$(readlink -f -- "${2:?a folder}")
nodes=${3:-2}
network=${4:-host}
cpus=4 memory=64000          # declared for each node, whatever the machine has
port=$((20000 + $$ % 10000)) # slurmctld; slurmd i listens on port + i
export SLURM_CONF=$folder/etc/slurm.conf
PATH=$PATH:/usr/sbin:/sbin

say() { printf 'cluster.sh: %s\n' "$*" >&2; }

install_missing() {
  local packages=(slurm-wlm munge libpmix-dev iproute2) program missing=
  for program in slurmctld slurmd munged ip; do command -v "$program" >/dev/null || missing=$program; done
  ldconfig -p | grep -q 'libpmix\.so ' || missing=libpmix # Slurm's plugin loads it by that name, which -dev has
  [[ -n $missing ]] || return 0
  # Without systemd the packages' own daemons do not start.
  install() { DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends "${packages[@]}"; }
  # One at a time: tests/browser may be installing, too.
  { flock 9 && { install || { apt-get update && install; }; }; } 9>/var/lock/flowers-apt >"$folder/log/apt.log" 2>&1 ||
    { tail -n 20 "$folder/log/apt.log" >&2 && exit 1; }
}

configure() {
  local i address=127.0.0.1
  [[ $network == host ]] || address=10.77.0.254
  mkdir -p "$folder"/{etc,run,spool/ctld,munge,tmp}
  chmod 755 "$folder" && chmod 700 "$folder/munge"
  (umask 077 && head -c 128 /dev/urandom >"$folder/munge/key")
  cat >"$SLURM_CONF" <<CONF
ClusterName=virtual
SlurmctldHost=$(hostname)($address)
SlurmctldPort=$port
SlurmUser=root
AuthType=auth/munge
CredType=cred/munge
AuthInfo=socket=$folder/run/munge.sock,cred_expire=20
StateSaveLocation=$folder/spool/ctld
SlurmdSpoolDir=$folder/spool/%n
SlurmctldPidFile=$folder/run/slurmctld.pid
SlurmdPidFile=$folder/run/slurmd.%n.pid
SlurmctldLogFile=$folder/log/slurmctld.log
SlurmdLogFile=$folder/log/slurmd.%n.log
TmpFS=$folder/tmp/%n
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SwitchType=switch/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SchedulerType=sched/backfill
SchedulerParameters=bf_interval=1,sched_interval=1,batch_sched_delay=0,sched_min_interval=0
SlurmdParameters=config_overrides
ReturnToService=2
KillWait=5
MinJobAge=3600
MailProg=/bin/true
JobRequeue=1
CONF
  # The default fence (a tree) lets ranks out of MPI_Init early on three or more busy nodes: crashes and hangs.
  echo "PMIxCollFence=ring" >"$folder/etc/mpi.conf"
  { cat /etc/hosts && echo "$address $(hostname)"; } >"$folder/etc/hosts"
  for ((i = 1; i <= nodes; i++)); do
    [[ $network == host ]] || address=10.77.0.$i
    mkdir -p "$folder/spool/n$i" "$folder/tmp/n$i"
    echo "NodeName=n$i NodeAddr=$address Port=$((port + i)) CPUs=$cpus RealMemory=$memory State=UNKNOWN" >>"$SLURM_CONF"
    echo "$address n$i" >>"$folder/etc/hosts"
  done
  echo "PartitionName=main Nodes=n[1-$((nodes < 2 ? nodes : 2))] Default=YES MaxTime=INFINITE State=UP" >>"$SLURM_CONF"
  ((nodes <= 2)) || echo "PartitionName=apart Nodes=n[3-$nodes] MaxTime=INFINITE State=UP" >>"$SLURM_CONF"
}

connect_nodes() {
  local i
  [[ $network == own ]] || return 0
  ip link add slurmbr type bridge && ip addr add 10.77.0.254/24 dev slurmbr && ip link set slurmbr up
  for ((i = 1; i <= nodes; i++)); do
    ip netns add "slurm-n$i"
    ip link add "slurmv$i" type veth peer name eth0 netns "slurm-n$i"
    ip link set "slurmv$i" master slurmbr up
    ip -n "slurm-n$i" link set lo up
    ip -n "slurm-n$i" addr add "10.77.0.$i/24" dev eth0
    ip -n "slurm-n$i" link set eth0 up
  done
}

disconnect_nodes() {
  local name
  for name in $(ip netns list 2>/dev/null | awk '/^slurm-n[0-9]+/ { print $1 }'); do ip netns del "$name"; done
  # A process that hangs in a namespace keeps its end of the wire.
  for name in $(ip -o link 2>/dev/null | grep -o 'slurmv[0-9]*'); do ip link del "$name" || true; done
  if ip link show slurmbr >/dev/null 2>&1; then ip link del slurmbr; fi
}

start_node() {
  local enter=()
  [[ $network == host ]] || enter=(nsenter "--net=/run/netns/slurm-$1")
  # shellcheck disable=SC2016  # expanded inside
  "${enter[@]}" unshare --uts --mount --propagation private sh -c '
    hostname "$1" && mount --bind "$2/etc/hosts" /etc/hosts && mount -t tmpfs tmpfs /dev/shm &&
    exec slurmd -N "$1"' sh "$1" "$folder"
}

# The process of a pid file, if it still is one of our daemons (and not a zombie that nobody has reaped).
daemon_of() {
  local pid name state
  pid=$(cat "$1" 2>/dev/null) && { read -r _ name state _ <"/proc/$pid/stat"; } 2>/dev/null || return 1
  [[ $state != Z && $name =~ ^\((slurmd|slurmctld|munged)\)$ ]] && echo "$pid"
}

# Ranks that wait give up their core (sched_yield), all the time. Linux 6.18 then lets one of another session starve on
# that core, for minutes; here each node is a session of its own, and nodes share cores. Without autogroups it is fair.
autogroups=/proc/sys/kernel/sched_autogroup_enabled
share_cores_fairly() {
  [[ -w $autogroups ]] || return 0
  cat $autogroups >"$folder/run/autogroups"
  echo 0 >$autogroups
}
as_it_was() { if [[ -s $folder/run/autogroups ]]; then cat "$folder/run/autogroups" >$autogroups; fi; }

start() {
  local i idle=0
  mkdir -p "$folder/log"
  install_missing
  configure
  disconnect_nodes
  connect_nodes
  share_cores_fairly
  munged --key-file="$folder/munge/key" --socket="$folder/run/munge.sock" --pid-file="$folder/run/munged.pid" \
    --log-file="$folder/munge/log" --seed-file="$folder/munge/seed"
  slurmctld -c
  for ((i = 1; i <= nodes; i++)); do start_node "n$i"; done
  for ((i = 0; i < 600; i++)); do
    idle=$(timeout 5 sinfo -h -N -o %T 2>/dev/null | grep -cx idle || true)
    ((idle == nodes)) && return
    sleep 0.1
  done
  say "only $idle of $nodes nodes came up:"
  tail -n 20 "$folder"/log/*.log >&2
  stop
  exit 1
}

end() {
  local file pid i
  for file; do if pid=$(daemon_of "$file"); then kill "$pid" || true; fi; done
  for file; do
    for ((i = 0; i < 50; i++)); do if daemon_of "$file" >/dev/null; then sleep 0.1; else break; fi; done
    if pid=$(daemon_of "$file"); then kill -9 "$pid" || true; fi
    rm -f "$file"
  done
}

stop() {
  local i
  timeout 10 squeue -h -o %A 2>/dev/null | sort -u | xargs -r timeout 10 scancel 2>/dev/null || true
  for ((i = 0; i < 100; i++)); do if [[ -n $(timeout 5 squeue -h 2>/dev/null) ]]; then sleep 0.1; else break; fi; done
  end "$folder"/run/slurmd.*.pid
  end "$folder/run/slurmctld.pid"
  end "$folder/run/munged.pid"
  disconnect_nodes
  as_it_was
}

case $command in
  start) start ;;
  stop) stop ;;
  *) say "no command $command, only start and stop" && exit 2 ;;
esac
