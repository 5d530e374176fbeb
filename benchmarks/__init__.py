"""Benchmarks, each run as `python -m benchmarks.<name>`: ratios measured in one run."""
