"""Training that goes on when ranks die and others come: `--elastic`, over Gloo instead of MPI (docs/elastic.md)."""
