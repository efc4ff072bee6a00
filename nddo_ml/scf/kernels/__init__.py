"""The self-consistent field of one molecule after another, compiled: the first rung of the ladder in flat arrays.

fock.py builds Fock matrices, fixed_point.py extrapolates, newton.py converges; the one door is scf/compiled.py. Orbitals are
rows here, occupied ones first.
"""
