"""Compiled kernels over raw arrays, and the one dispatcher that chooses between them and the reference.

    math      scalar functions, written once for every device
    codegen   from a Python function to machine code or PTX, and the kernel cache
    runtime   thread pool, allocator, executables
    cpu, cuda the kernels, one module for each family of ops, under the same names

Imports go down this list only, and `cpu` and `cuda` do not import each other. A kernel module registers its kernels;
nothing lists it. It is imported when the first op is bound to a backend, and must not import numba until one of its
kernels runs.
"""

from deepcore.kernels.codegen.toolchain import load_numba
from deepcore.kernels.registry import discover, dispatcher, lowering, register
