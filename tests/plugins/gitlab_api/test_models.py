"""Moments as GitLab writes them (semantics 6)."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta, timezone

import pytest

from gateway.plugins import Digest, TagRecord
from plugins.gitlab_api import models

MOMENTS = [
    pytest.param(datetime(2019, 1, 6, 16, 49, 51, 272_999, UTC), "2019-01-06T16:49:51.272+00:00", id="milliseconds"),
    pytest.param(datetime(2019, 1, 6, tzinfo=UTC), "2019-01-06T00:00:00.000+00:00", id="none of them"),
    pytest.param(
        datetime(2019, 1, 6, 2, tzinfo=timezone(timedelta(hours=2))), "2019-01-06T00:00:00.000+00:00", id="elsewhere"
    ),
    pytest.param(datetime(1, 1, 1, tzinfo=UTC), "0001-01-01T00:00:00.000+00:00", id="the year 1, as some tools say"),
    pytest.param(datetime(9999, 12, 31, 23, 59, 59, tzinfo=UTC), "9999-12-31T23:59:59.000+00:00", id="far ahead"),
]


@pytest.mark.parametrize(("moment", "written"), MOMENTS)
def test_a_moment_has_a_year_of_four_digits(moment: datetime, written: str) -> None:
    """In UTC, with milliseconds; what a registry says with an offset, what a database has with a Z."""
    digest = Digest.of(b"")
    record = TagRecord("v1", digest, "", None, None, moment, moment, "", ())
    shown = json.loads(models.TagDetails.of("acme/app", record, "registry.example.com").model_dump_json())
    assert (shown["created_at"], shown["pushed_at"]) == (written, written.replace("+00:00", "Z"))
