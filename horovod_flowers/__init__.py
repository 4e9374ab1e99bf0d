"""Train a flower-recognition CNN across MPI ranks with Horovod, and measure what the ranks are worth."""

__version__ = "0.1.0"
