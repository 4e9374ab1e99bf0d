"""The training of a run: engine (what a step is), trainer (the logged epochs), and what surrounds them."""
