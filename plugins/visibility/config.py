"""What an item ``use: visibility`` may say: nothing yet."""

from __future__ import annotations

from gateway.plugins import Model


class Config(Model):
    """No keys: the table is GitLab's."""
