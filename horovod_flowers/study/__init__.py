"""Many runs from a job file: points in random order, failures recorded, finished ones left out."""
