"""Promises of backend_distribution, over a real registry and over one that does everything wrong."""
