"""The OCI distribution protocol as a suite of promises that every backend keeps, seen from its socket."""

import pytest

# A contract's modules are not named test_*, so pytest would show their failures without the compared values.
pytest.register_assert_rewrite(
    *(f"{__name__}.{module}" for module in ("client", "discovery", "hostile", "management", "pull", "push"))
)
