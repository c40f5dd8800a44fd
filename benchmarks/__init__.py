"""Measurements against real peers; `make bench` prints their one table."""
