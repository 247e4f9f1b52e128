"""Tables: columns chosen by name, and their encoding as inputs of a network."""

from __future__ import annotations

from deepcore.data.tabular.encoder import ENCODINGS, TableEncoder, write_codes
from deepcore.data.tabular.table import Table, natural, sorted_categories

__all__ = ["ENCODINGS", "Table", "TableEncoder", "natural", "sorted_categories", "write_codes"]
