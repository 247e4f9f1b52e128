"""Compiles a function of tensors to one program without Python between its kernels."""

from deepcore.compiler.compiled import Compiled, compile

__all__ = ["Compiled", "compile"]
