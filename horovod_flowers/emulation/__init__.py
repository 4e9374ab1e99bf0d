"""A network of virtual nodes on this machine, as slow as is asked for: real ranks, real MPI, real TCP.

__main__.py      the command that runs another one on such a network
world.py         the namespaces that all of it lives in, and dies with
first_process.py what runs in them first: makes the network, starts the command, and ends all with it
network.py       the nodes, their links and the switch
remote_start.py  how mpirun reaches a node
waiting.py       ranks that wait sleep (waiting.c), since they share this machine's cores
launcher.py      mpirun on virtual nodes
gauge.py         whether cores were there when ranks needed them: else a time is no measurement
"""
