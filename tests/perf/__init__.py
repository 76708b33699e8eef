"""Benchmarks: ratios against something that runs beside in the same run."""
