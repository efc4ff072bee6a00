"""Structure files: one reader for every part of the package, one file per kind of format.

A reader turns a file into a list of frames (`frames.Frame`). A frame holds an ASE Atoms object with what the file says of
charge, multiplicity, isotopes and constraints, or the error that names the frame.
"""
