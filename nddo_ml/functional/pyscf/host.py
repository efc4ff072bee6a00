"""PySCF as the rest of this folder sees it: names for its objects, and its modules when they are asked for.

PySCF builds the classes of its objects while it runs, by mixing others, so that no type checker can know what they hold: the
names below say to a reader what an argument is, and check nothing.
"""

from typing import Any, TypeAlias

from nddo_ml.common.extras import needed

PySCFMeanField: TypeAlias = Any     # RKS or UKS
PySCFMolecule: TypeAlias = Any      # gto.Mole
PySCFGrids: TypeAlias = Any         # dft.gen_grid.Grids
PySCFMethod: TypeAlias = Any        # a gradient or Hessian of a mean field

Mixin: Any = object     # base of the classes that stand in front of PySCF's own: what `super()` will find is not known before


def pyscf(module: str, purpose: str = "A functional in PySCF") -> Any:
    """The module of that name inside PySCF ("dft", "gto", "dft.numint"); purpose: for the message.

    Raises:
        MissingExtra: PySCF is not installed.
    """
    return needed(f"pyscf.{module}", "train", purpose)
