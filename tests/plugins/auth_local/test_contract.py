"""The contract of every authenticator."""

from __future__ import annotations

import pytest
from pydantic import SecretStr

from gateway.plugins import Credential
from gateway.plugins.testing import AuthenticatorContract
from plugins.auth_local import Plugin
from tests.plugins.auth_local.conftest import Local


class TestAuthLocal(AuthenticatorContract):
    """The directory on disk."""

    @pytest.fixture
    def plugin(self, local: Local) -> Plugin:
        """Take the plugin that reads the directory."""
        return local.plugin

    @pytest.fixture
    def good(self) -> Credential:
        """Present bob's password, whose hash stands in the directory."""
        return Credential("bob", SecretStr("hashed-secret"))

    @pytest.fixture
    def wrong(self) -> Credential:
        """Present another."""
        return Credential("bob", SecretStr("not-the-secret"))
