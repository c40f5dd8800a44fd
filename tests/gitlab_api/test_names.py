"""The semantics' tables of `tests/semantics/test_names.py`, decided from GitLab's REST facts."""

from tests.semantics.test_names import *  # noqa: F403 - the tests are the names
