"""Estimators: from a few equilibria to a parameter gradient; and the truths they are held against."""
