"""The catalog costs what the caller may see, not what there is."""

from __future__ import annotations

import json
import sqlite3

import pytest
from sqlalchemy import create_engine
from sqlalchemy.dialects import sqlite
from sqlalchemy.pool import StaticPool

from gateway.core import metadata, schema

SEEN = 20


def steps(hidden: int) -> int:
    """Count the steps of SQLite's machine that a page of the catalog takes beside *hidden* repositories of others."""
    connection = sqlite3.connect(":memory:")
    engine = create_engine("sqlite://", creator=lambda: connection, poolclass=StaticPool)
    schema.schema.create_all(engine)
    names = [f"mine/p{number}" for number in range(SEEN)] + [f"hidden/p{number}" for number in range(hidden)]
    connection.executemany(
        "insert into repositories (path, project, created_at) values (?1, ?1, 0)", [(n,) for n in names]
    )
    connection.execute(
        "insert into manifests (repository_id, digest, media_type, size, content, pushed_at, pushed_by)"
        " select id, 'sha256:' || id, '', 0, x'', 0, '' from repositories"
    )
    query = metadata.catalog("sqlite").compile(dialect=sqlite.dialect(paramstyle="named"))
    values = {**query.params, "last": "", "limit": 100, "projects": json.dumps(names[:SEEN])}
    count = 0

    def step() -> int:
        nonlocal count
        count += 1
        return 0

    connection.set_progress_handler(step, 1)
    rows = connection.execute(str(query), values).fetchall()
    connection.set_progress_handler(None, 0)
    connection.close()
    engine.dispose()
    assert sorted(row[0] for row in rows) == sorted(names[:SEEN])
    return count


@pytest.mark.parametrize("hidden", [1_000, 10_000])
def test_hidden_repositories_cost_nothing(hidden: int) -> None:
    """A page takes the same steps of the database however many repositories the caller may not see."""
    assert steps(hidden) == steps(0)
