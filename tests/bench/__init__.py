"""Measurements; `python -m tests.bench` runs them."""
