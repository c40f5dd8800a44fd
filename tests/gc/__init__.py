"""Garbage that is collected while pushes go on, and the mode in which nothing is pushed."""
