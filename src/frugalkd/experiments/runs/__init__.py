"""Runs: a recipe in, a run folder out."""
