"""What an item ``use: naming`` may say: nothing yet."""

from __future__ import annotations

from gateway.plugins import Model


class Config(Model):
    """No keys: GitLab's rules are not for the operator to bend."""
