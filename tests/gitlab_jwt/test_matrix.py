"""The semantics' tables of `tests/semantics/test_matrix.py`, answered by GitLab through the gateway."""

from tests.semantics.test_matrix import *  # noqa: F403 - the tests are the names
