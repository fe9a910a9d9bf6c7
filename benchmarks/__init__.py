"""How fast it is: run as files, python benchmarks/….py."""
