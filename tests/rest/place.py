"""A gateway with the REST API, as its clients see it."""

from __future__ import annotations

import sqlite3
from contextlib import closing, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, urlencode

import gitlab

from tests.support.images import Index
from tests.support.people import ALICE_API, JOB, JOB_ELSEWHERE, JOB_OF_DEVELOPER, JOB_OF_MAINTAINER
from tests.support.wire import Account, Answer, Wire

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from tests.support.gateway import GatewayProcess
    from tests.support.images import Image

API = "/api/v4/"
JOBS = frozenset({JOB, JOB_OF_DEVELOPER, JOB_OF_MAINTAINER, JOB_ELSEWHERE})


def shown_by(account: Account | None) -> dict[str, str]:
    """Make the header of the REST API that carries a token."""
    if account is None:
        return {}
    return {"JOB-TOKEN" if account in JOBS else "PRIVATE-TOKEN": account.password}


def url(*parts: str | int, **query: object) -> str:
    """Put a path below the API together, each part encoded as one."""
    path = API + "/".join(quote(str(part), safe="") for part in parts)
    return f"{path}?{urlencode(query)}" if query else path


@dataclass
class Place:
    """A running gateway."""

    gateway: GatewayProcess

    def send(
        self,
        method: str,
        path: str,
        account: Account | None = ALICE_API,
        body: bytes | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Answer:
        """Send one request as somebody, an owner of everything unless it is another."""
        return self.gateway.wire().send(method, path, body, {**shown_by(account), **(headers or {})})

    def get(self, *parts: str | int, account: Account | None = ALICE_API, **query: object) -> Answer:
        """GET a path below the API."""
        return self.send("GET", url(*parts, **query), account)

    def delete(self, *parts: str | int, account: Account | None = ALICE_API, **query: object) -> Answer:
        """DELETE a path below the API."""
        return self.send("DELETE", url(*parts, **query), account)

    @contextmanager
    def client(self, account: Account = ALICE_API) -> Iterator[gitlab.Gitlab]:
        """Give somebody python-gitlab."""
        url, token = self.gateway.base_url, account.password
        with gitlab.Gitlab(url, job_token=token) if account in JOBS else gitlab.Gitlab(url, token) as client:
            yield client

    @property
    def registry(self) -> Wire:
        """The registry's side of it, as its owner, by a token that is good everywhere."""
        return self.gateway.wire(ALICE_API)

    def push(self, repository: str, content: Image | Index, *tags: str) -> None:
        """Upload an image, or an index with its images, under one tag or several."""
        wire = self.registry
        for each in content.images if isinstance(content, Index) else (content,):
            for blob in (each.config, *each.layers):
                wire.push_blob(repository, blob)
            wire.put_manifest(repository, each.manifest.digest, each.manifest).expect(201)
        for tag in tags:
            wire.put_manifest(repository, tag, content.manifest).expect(201)

    def recorded(self) -> dict[str, int]:
        """Read the numbers of all repositories where they are recorded, which nobody hears of."""
        with closing(sqlite3.connect(self.gateway.data / "gateway.db")) as database:
            return dict(database.execute("SELECT path, id FROM repositories"))

    def number(self, project: str, path: str) -> int:
        """Look up the number of a repository."""
        listed = self.get("projects", project, "registry", "repositories", per_page=100).expect(200).json()
        return next(int(one["id"]) for one in listed if one["path"] == path)

    def tags(self, project: str, path: str, **query: object) -> list[dict[str, Any]]:
        """List the tags of a repository."""
        parts = ("projects", project, "registry", "repositories", self.number(project, path), "tags")
        listed = self.send("GET", url(*parts, **query)).expect(200).json()
        assert isinstance(listed, list)
        return listed
