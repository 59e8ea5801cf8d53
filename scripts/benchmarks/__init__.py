"""Benchmarks: each function measures one thing and returns plain numbers; ratios are of figures taken in one run."""
