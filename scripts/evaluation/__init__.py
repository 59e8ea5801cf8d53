"""Measuring each stage, and the whole pipeline, on labelled files."""
