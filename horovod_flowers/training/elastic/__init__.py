"""Training that goes on when ranks die and others come: `--elastic`, over Gloo instead of MPI (docs/elastic.md).

job.py         meet, train, and meet again when ranks have come or gone
rendezvous.py  how the processes find each other; hosts.py: what they hear of other hosts
member.py      one process of the job: what it trains with whichever ranks there are
"""
