"""Layers, losses, and the `Module` they are made of: a file per family. A new file here is found by being here."""
