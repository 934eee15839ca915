"""Hypothesis: laws that hold for all values, and twins that do the same slowly and obviously."""
