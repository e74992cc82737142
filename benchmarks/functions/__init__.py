"""Single functions, by pytest-benchmark (`make bench-functions`), beside the other way to do the same."""
