"""Scalar functions, written once for every device: elementary and special functions, activations, loss terms."""
