"""Structure files: one reader for every part of the package, one file per kind of format.

A reader turns a file into frames (`frames.Frame`): an ASE Atoms each, with what the file says of charge, multiplicity, isotopes
and constraints, or the error that names the frame.
"""
