"""What an item ``use: auth_local`` may say."""

from __future__ import annotations

from pathlib import Path

from gateway.plugins import Model


class Config(Model):
    """Where the directory lies."""

    directory: Path = Path("config/directory.yaml")
