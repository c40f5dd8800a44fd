"""The semantics' tables of `tests/semantics/test_matrix.py`, decided from GitLab's REST facts."""

from tests.semantics.test_matrix import *  # noqa: F403 - the tests are the names
