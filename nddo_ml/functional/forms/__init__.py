"""Formulas of exchange-correlation functionals: published ones, and networks that correct them."""
