"""Passes over a `Program` before its memory is planned; none changes a bit of what it computes."""
