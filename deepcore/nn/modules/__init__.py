"""Layers, losses, and the `Module` they are made of: a file per family. New files are discovered."""
