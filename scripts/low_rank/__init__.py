"""How low is the rank of what a training changed? Singular values of the change, matrix by matrix."""
