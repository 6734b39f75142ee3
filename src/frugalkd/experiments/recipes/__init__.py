"""Recipes: a run as YAML, validated."""
