"""Exchange-correlation functionals written in torch: published ones, learned ones, and stock PySCF to run them in.

From the ground up, lower files never import higher ones: density and projectors; base; derivatives; forms; library, constraints
and reactions; pyscf; training; plots.
"""

from nddo_ml.functional.base import Functional
from nddo_ml.functional.constraints import constraints
from nddo_ml.functional.density import Density
from nddo_ml.functional.derivatives import derivatives
from nddo_ml.functional.forms.neural import NeuralGGA, NeuralMetaGGA
from nddo_ml.functional.forms.projection import Projected
from nddo_ml.functional.forms.r2scan import R2SCAN
from nddo_ml.functional.forms.semilocal import LDA, PBE, PBE0
from nddo_ml.functional.library import load, names, save
from nddo_ml.functional.projectors import Projectors
from nddo_ml.functional.pyscf.attach import attach

__all__ = ["LDA", "PBE", "PBE0", "R2SCAN", "Density", "Functional", "NeuralGGA", "NeuralMetaGGA", "Projected", "Projectors",
           "attach", "constraints", "derivatives", "load", "names", "save"]
