"""A gateway's parts with images of any age, and its cleanup plugin."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import socket
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote

import pytest
from pydantic import SecretStr

from gateway.cli import main
from gateway.config import DatabaseConfig
from gateway.core.database import migrate
from gateway.core.documents import DatabaseDocuments
from gateway.plugins import ExpirationPolicy, Project, RepositoryRecord, Visibility
from plugins.cleanup import Plugin, rules
from tests.contracts.oci.content import OCI_CONFIG, Blob, Manifest, image, random_blob
from tests.fakes.proxy import ForwardProxy
from tests.images.conftest import APP, Rig, images, rig
from tests.support.gateway import GatewayProcess
from tests.support.images import CONFIG, LAYER, MANIFEST, Image
from tests.support.images import Blob as PlainBlob
from tests.support.peers import Finished
from tests.support.people import ALICE_API
from tests.support.wire import Wire

__all__ = ["images"]

PROJECT: Final = Project("acme/app", Visibility.PRIVATE, id=1, source="auth_local")
NOW: Final = datetime.now(UTC).replace(microsecond=0)
DAY: Final = timedelta(days=1)


def built(age: float | None, *layers: Blob, **fields: Any) -> Manifest:
    """Make an image whose config says that it was built so many days ago, or nothing."""
    created = None if age is None else (NOW - age * DAY).isoformat()
    config = {"os": "linux", "architecture": "amd64", "created": created, "nonce": os.urandom(8).hex()}
    return image(layers or [random_blob(10)], Blob(json.dumps(config).encode(), OCI_CONFIG), **fields)


@pytest.fixture(scope="session")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Migrate one database, for copying."""
    path = tmp_path_factory.mktemp("template") / "gateway.db"
    asyncio.run(migrate(DatabaseConfig(url=SecretStr(f"sqlite:///{path}"))))
    return path


@asynccontextmanager
async def opened(folder: Path, template: Path, **options: Any) -> AsyncIterator[Rig]:
    """Open the parts of a gateway over a database that is migrated already."""
    (folder / "data").mkdir(parents=True)
    shutil.copy(template, folder / "data" / "gateway.db")
    async with rig(folder, **options) as parts:
        yield parts


@pytest.fixture
async def local(tmp_path: Path, template: Path) -> AsyncIterator[Rig]:
    """The parts of a gateway with a store of its own."""
    async with opened(tmp_path / "gateway", template) as parts:
        yield parts


def plugin_of(parts: Rig) -> Plugin:
    """The gateway's cleanup plugin."""
    found = parts.parts.plugins.plugin("cleanup")
    assert isinstance(found, Plugin)
    return found


async def save(parts: Rig, project: str = "acme/app", *, due: bool = True, **settings: Any) -> ExpirationPolicy:
    """Keep a policy that is enabled, daily and removes all, unless *settings* say otherwise."""
    plain: Mapping[str, Any] = {"enabled": True, "keep_n": None, "older_than": None}
    following = NOW - DAY / 2 if due else NOW + DAY / 2
    policy = ExpirationPolicy(**{**plain, "next_run_at": following, **settings})
    await documents(parts).put("policy", project, rules.as_json(policy), "alice")
    return policy


def documents(parts: Rig) -> DatabaseDocuments:
    """What the plugin keeps."""
    return DatabaseDocuments(parts.parts.database, "cleanup")


async def record(parts: Rig, name: str = APP) -> RepositoryRecord:
    """What is recorded of a repository."""
    found = await parts.parts.images.repositories_of(["acme/app", "acme/other"])
    return next(one for one in found if one.path == name)


class RefusingProxy(ForwardProxy):
    """Refuses, once it is *refusing*, to put what *kept* names, as registries do whose policies keep a tag."""

    def __init__(self, kept: bytes) -> None:
        super().__init__()
        self.kept = kept
        self.refusing = False

    def _serve(self, client: socket.socket) -> None:
        line = client.recv(65536, socket.MSG_PEEK).partition(b"\r\n")[0]
        if not (self.refusing and line.startswith(b"PUT ") and self.kept in line):
            super()._serve(client)
            return
        with client.makefile("rb") as request:
            head = b"".join(iter(request.readline, b"\r\n")).lower()
            request.read(int(head.partition(b"content-length: ")[2].partition(b"\r\n")[0]))
        body = json.dumps({"errors": [{"code": "DENIED", "message": "immutable tag"}]})
        client.sendall(f"HTTP/1.1 412 No\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n{body}".encode())


# -- a gateway that serves --------------------------------------------------------------------------------

RULES = {"enabled": True, "name_regex": "v.*|latest", "name_regex_keep": "v9", "keep_n": 1, "older_than": "7d"}


def aged(text: str, days: float) -> Image:
    """Make an image that was built so many days ago."""
    config = PlainBlob(CONFIG, json.dumps({"created": (NOW - days * DAY).isoformat(), "text": text}).encode())
    layer = PlainBlob(LAYER, text.encode() * 1000)
    document = {
        "schemaVersion": 2,
        "mediaType": MANIFEST,
        "config": config.descriptor,
        "layers": [layer.descriptor],
    }
    return Image(config, (layer,), PlainBlob(MANIFEST, json.dumps(document).encode()), "amd64")


def change(gateway: GatewayProcess, project: str, **settings: Any) -> None:
    """Change a project's policy over the REST API."""
    body = json.dumps({"container_expiration_policy_attributes": RULES | settings}).encode()
    headers = {"PRIVATE-TOKEN": ALICE_API.password, "Content-Type": "application/json"}
    path = f"/api/v4/projects/{quote(project, safe='')}"
    Wire(gateway.base_url).send("PUT", path, body, headers).expect(200)


class Inside:
    """Runs the command in this process: a second less than in one of its own."""

    def __init__(self, patched: pytest.MonkeyPatch, written: pytest.CaptureFixture[str]) -> None:
        self._patched = patched
        self._written = written

    def __call__(self, gateway: GatewayProcess, *words: str | Path, fails: bool = False) -> Finished:
        """Run it to its end, and hold it to its success or failure."""
        arguments = ("registry-gateway", "cleanup", *map(str, words), "--config", str(gateway.config))
        self._patched.setattr(sys, "argv", list(arguments))
        with pytest.raises(SystemExit) as ended:
            main()
        said = self._written.readouterr()
        assert bool(ended.value.code) is fails, said.err
        return Finished(arguments, int(fails), said.out, said.err)


@pytest.fixture
def inside(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Inside:
    """Run commands in this process."""
    return Inside(monkeypatch, capsys)
