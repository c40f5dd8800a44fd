"""What an item ``use: gitlab_api`` may say."""

from __future__ import annotations

from typing import Final

from pydantic import Field, SecretStr

from gateway.plugins import Model

_HOST: Final = r"^([A-Za-z0-9.\-]+|\[[0-9A-Fa-f:.]+\])(:[0-9]+)?$"


class Config(Model):
    """*registry_event_token*: the secret of a registry that tells of changes; *location_host*: what images are called.

    *location_host* is a host with its port if that is not 443, as it stands before each image's name.
    """

    registry_event_token: SecretStr | None = Field(default=None, min_length=1)
    location_host: str | None = Field(default=None, pattern=_HOST)
