"""Recipes, run folders, comparisons and reports: what runs and compares trainings."""
