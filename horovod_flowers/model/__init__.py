"""Networks: the registry, the precision they compute in, and what makes them faster. They know nothing of ranks."""
