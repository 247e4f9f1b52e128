"""Kernels for the CPU, one module for each family of ops."""
