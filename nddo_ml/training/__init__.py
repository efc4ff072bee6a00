"""Training: reference labels, data sets, losses, the loop, ensembles and active learning."""
