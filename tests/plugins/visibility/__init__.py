"""The permission matrix."""
