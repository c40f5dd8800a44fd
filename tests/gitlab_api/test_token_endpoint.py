"""The semantics' tables of `tests/semantics/test_token_endpoint.py`, decided from GitLab's REST facts."""

from tests.semantics.test_token_endpoint import *  # noqa: F403 - the tests are the names
