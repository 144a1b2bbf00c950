"""Solvers: from a system to an equilibrium."""
