"""Benchmarks: one runner, `python -m benchmarks.run`; never timed tests."""
