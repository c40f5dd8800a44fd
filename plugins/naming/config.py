"""What an item ``use: naming`` may say."""

from __future__ import annotations

from pydantic import Field

from gateway.plugins import Model


class Config(Model):
    """*extra_components*: how many names an image may lie below its project; GitLab allows two."""

    extra_components: int = Field(default=2, ge=0, le=17)
