"""What a run is: options in a tree of dataclasses, from which flags, YAML keys and --help are generated."""
