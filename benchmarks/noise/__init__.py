"""Noisy labels: which are found, at what cost, and what a student makes of them."""
