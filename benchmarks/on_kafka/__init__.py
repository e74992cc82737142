"""Parts of `make bench-queue`, one a file. broker.py is what they stand on."""
