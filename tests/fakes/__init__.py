"""Servers that stand in for what the gateway talks to, each with tests that hold it to the semantics."""
