"""The semantics' tables of `tests/semantics/test_credentials.py`, answered by GitLab through the gateway."""

from tests.semantics.test_credentials import *  # noqa: F403 - the tests are the names
