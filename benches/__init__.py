"""Benchmarks: `make bench`, and `python -m benches.gpu_report` on a machine with a GPU."""
