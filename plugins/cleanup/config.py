"""What an item ``use: cleanup`` may say."""

from __future__ import annotations

from datetime import timedelta

from pydantic import Field, field_validator

from gateway.plugins import Duration, Model


class Config(Model):
    """Every *interval* policies that are due are run, of at most *concurrency* projects at once (0: never).

    So many in each worker. One repository's tags are deleted for at most *delete_timeout* before the next has its turn.
    *max_delete_percent*: a run that would delete a larger share of a repository's tags waits until somebody confirms
    it; None: none does. *max_list_size*: so many tags are looked at in one run, as GitLab does; 0: all.
    """

    interval: Duration = timedelta(hours=1)
    concurrency: int = Field(default=4, ge=0, le=64)
    delete_timeout: Duration = timedelta(seconds=250)
    max_delete_percent: int | None = Field(default=None, ge=0, le=100)
    max_list_size: int = Field(default=0, ge=0)

    @field_validator("interval", "delete_timeout")
    @classmethod
    def _some_time(cls, value: timedelta) -> timedelta:
        if value <= timedelta(0):
            raise ValueError("expected more than 0s")
        return value
