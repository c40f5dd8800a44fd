"""The semantics' tables of `tests/semantics/test_abilities.py`, as GitLab answers the callers of its REST API."""

from tests.semantics.test_abilities import *  # noqa: F403 - the tests are the names
