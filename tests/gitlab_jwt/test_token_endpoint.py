"""The semantics' tables of `tests/semantics/test_token_endpoint.py`, answered by GitLab through the gateway."""

from tests.semantics.test_token_endpoint import *  # noqa: F403 - the tests are the names
