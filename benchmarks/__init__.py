"""Side-by-side measurements on a lab of their own: `make bench`, or `python -m benchmarks --help`."""
