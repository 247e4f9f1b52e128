"""Kernels for CUDA GPUs, one module for each family of ops, named as those in `kernels.cpu`."""
