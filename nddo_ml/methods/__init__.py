"""The methods: one static record each, over the published tables of parameters.

`method("PM6-D3H4")` finds one by name. `smooth` makes a method the parent of a learned one, `Method.changed` makes one with
other parameters under a name of its own:

    mine = method("AM1").changed("AM1-mine", {"U_pp": {"C": -38.7}}, "this work")
    Hamiltonian(mine)(molecules).method                                            # AM1-mine
    weights.save(Hamiltonian(mine), "am1-mine.safetensors")                        # for Hamiltonian, NDDO and the command

method.py has the record, catalogue.py the entries and the search by name, core_rules.py the exceptions of the core-core terms,
tables.py the parameters, learned.py what files of trained weights say about themselves.
"""

from nddo_ml.methods.catalogue import SMOOTH, method, methods, smooth
from nddo_ml.methods.method import Method

__all__ = ["SMOOTH", "Method", "method", "methods", "smooth"]
