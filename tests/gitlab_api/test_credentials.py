"""The semantics' tables of `tests/semantics/test_credentials.py`, decided from GitLab's REST facts."""

from tests.semantics.test_credentials import *  # noqa: F403 - the tests are the names

# Their rows hold account passwords, which no REST call verifies: see test_facts.py.
del test_recognition, test_claims_of_a_caller  # noqa: F821
