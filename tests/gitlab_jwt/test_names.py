"""The semantics' tables of `tests/semantics/test_names.py`, answered by GitLab through the gateway."""

from tests.semantics.test_names import *  # noqa: F403 - the tests are the names
