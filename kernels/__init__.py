"""Compiled kernels over raw arrays, and the one dispatcher that chooses between them and the reference.

    math      scalar functions, written once for every device
    codegen   compiles Python functions to machine code or PTX, and caches the kernels
    runtime   thread pool, allocator, executables
    cpu, cuda the kernels, one module for each family of ops, under the same names

Imports go down this list only, and `cpu` and `cuda` do not import each other. Kernel modules register their kernels on
import, which happens when the first op is bound to a backend; they must not import numba until one of their kernels runs.
"""

from deepcore.kernels.codegen.toolchain import load_numba
from deepcore.kernels.registry import discover, dispatcher, lowering, register
