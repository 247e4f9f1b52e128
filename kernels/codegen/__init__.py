"""From a Python function to machine code or PTX, in memory and on disk."""
