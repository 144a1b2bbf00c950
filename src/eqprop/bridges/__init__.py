"""Substrates made real: ngspice, and benches."""
