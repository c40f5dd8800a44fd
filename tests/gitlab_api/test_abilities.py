"""The semantics' tables of `tests/semantics/test_abilities.py`, decided from GitLab's REST facts."""

from tests.semantics.test_abilities import *  # noqa: F403 - the tests are the names
