"""Training of functionals through their own densities, and their evaluation."""
