"""Exchange-correlation functionals written in torch: published ones, learned ones, and stock PySCF to run them in."""

from nddo_ml.functional.base import Functional
from nddo_ml.functional.constraints import constraints
from nddo_ml.functional.density import Density
from nddo_ml.functional.derivatives import derivatives
from nddo_ml.functional.library import load, names, save
from nddo_ml.functional.neural import NeuralGGA, NeuralMetaGGA
from nddo_ml.functional.projection import Projected, Projectors
from nddo_ml.functional.pyscf_attach import attach
from nddo_ml.functional.r2scan import R2SCAN
from nddo_ml.functional.semilocal import LDA, PBE, PBE0

__all__ = ["LDA", "PBE", "PBE0", "R2SCAN", "Density", "Functional", "NeuralGGA", "NeuralMetaGGA", "Projected", "Projectors",
           "attach", "constraints", "derivatives", "load", "names", "save"]
