"""Side-by-side measurements, most of them on a lab of their own: `make bench`, or `python -m benchmarks --help`."""

import sys

from lab.settings import PROJECT

# As for the tests: the collection is imported from this checkout.
sys.path.insert(0, str(PROJECT / "collections"))
