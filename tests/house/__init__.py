"""Promises of the repository itself: its public interface, its documentation, its rules."""
