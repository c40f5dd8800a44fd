"""Cleaning up: what goes, by which rule, and that nothing else does."""
