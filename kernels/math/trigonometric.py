"""Circular and hyperbolic functions and their inverses, powers and logarithms to other bases, for float32.

They are computed in float64, without a branch, and rounded once: so nearly all results are the nearest there is.
Where a function has `<name>_far(…)` and `<name>_library(…)` beside it, the second is computed, one number at a time,
where the first holds.
"""

from __future__ import annotations
