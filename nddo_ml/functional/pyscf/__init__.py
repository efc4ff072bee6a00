"""Functionals in PySCF: mean fields that carry them, their densities, and how those respond."""
