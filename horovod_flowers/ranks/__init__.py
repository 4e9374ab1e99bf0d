"""The ranks among themselves: start-up, communicator, cores, requests to stop, the watch for stalls."""
