"""`make bench-check`: what must not get worse, held against benchmarks/baseline.json."""
