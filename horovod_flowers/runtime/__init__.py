"""One process: its errors and how it ends, files, console, heartbeat, machine. Knows nothing of runs or ranks."""
