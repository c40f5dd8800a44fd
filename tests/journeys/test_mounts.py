"""Blobs that lie in another repository: who may read them there gets them at once, who may not learns nothing."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import NamedTuple
from urllib.parse import urlencode, urlsplit

import pytest

from tests.support.gateway import GatewayProcess
from tests.support.images import LAYER, Blob
from tests.support.people import (
    ALICE,
    BOB,
    CAROL,
    DEPLOY_READ_WRITE,
    HIDDEN,
    JOB,
    JOB_ELSEWHERE,
    PRIVATE,
    PROJECT_DEVELOPER,
    PUBLIC,
    ROOT,
)
from tests.support.wire import Account, Answer, Wire

UNREADABLE = "conf/project"
"""A private project whose only member is alice."""
WAYS = ["basic", "token"]

_numbers = itertools.count(1000)


def fresh(project: str, name: str) -> str:
    """Name a repository that no other test uses; all of one name are equally long."""
    return f"{project}/{name}-{next(_numbers)}"


def blob(text: str) -> Blob:
    """Make a blob that lies nowhere yet."""
    return Blob(LAYER, f"{text} {next(_numbers)}".encode())


def scope(repository: str, actions: str) -> str:
    """Write a scope."""
    return f"repository:{repository}:{actions}"


def caller(gateway: GatewayProcess, way: str, account: Account, target: str, source: str) -> Wire:
    """Come with the credential itself, or with a token for it that asked for both repositories, as Docker does."""
    wire = gateway.wire(account)
    return wire if way == "basic" else gateway.wire(wire.token(scope(target, "pull,push"), scope(source, "pull")))


def mount(wire: Wire, target: str, digest: str, source: str | None) -> Answer:
    """Ask for a blob of another repository."""
    query = urlencode({"mount": digest} | ({} if source is None else {"from": source}))
    return wire.send("POST", f"/v2/{target}/blobs/uploads/?{query}")


class Heard(NamedTuple):
    """An answer without what differs between two of the same."""

    status: int
    headers: Sequence[tuple[str, str]]
    body: bytes


def heard(answer: Answer, target: str) -> Heard:
    """Take the name of the target, the session, the date and the request id out of an answer."""
    changing = {"Date", "X-Request-Id", "Docker-Upload-UUID"}
    assert answer.headers["Docker-Upload-UUID"]
    path, _, session = urlsplit(answer.location).path.rpartition("/")
    assert session
    headers = [(key, value) for key, value in answer.headers.items() if key not in {*changing, "Location"}]
    location = answer.headers["Location"]
    assert location.count(session) == 1
    headers.append(("Location", location.replace(session, "SESSION").replace(target, "TARGET")))
    headers.append(("names", ",".join(answer.headers.keys())))
    assert path.endswith(f"/v2/{target}/blobs/uploads")
    return Heard(answer.status, headers, answer.body)


READERS = [
    pytest.param(CAROL, PRIVATE, PRIVATE, id="developer, within a project"),
    pytest.param(CAROL, PUBLIC, PRIVATE, id="developer, private to public"),
    pytest.param(ROOT, PRIVATE, UNREADABLE, id="administrator"),
    pytest.param(DEPLOY_READ_WRITE, PRIVATE, PUBLIC, id="deploy token, from a public project"),
    pytest.param(PROJECT_DEVELOPER, PRIVATE, PUBLIC, id="project token, from a public project"),
    pytest.param(JOB, PRIVATE, PUBLIC, id="job, from a public project"),
    pytest.param(JOB, PRIVATE, HIDDEN, id="job, from a private project that its user is a member of"),
]

STRANGERS = [
    pytest.param(CAROL, PRIVATE, UNREADABLE, id="member of nothing there"),
    pytest.param(DEPLOY_READ_WRITE, PRIVATE, HIDDEN, id="deploy token of another project"),
    pytest.param(PROJECT_DEVELOPER, PRIVATE, HIDDEN, id="project token of another project"),
    pytest.param(JOB, PRIVATE, UNREADABLE, id="job whose user is no member there"),
    pytest.param(JOB_ELSEWHERE, PUBLIC, PRIVATE, id="job of another project, of a stranger"),
]


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize(("account", "there", "here"), READERS)
def test_a_readable_blob_is_mounted(gateway: GatewayProcess, account: Account, there: str, here: str, way: str) -> None:
    """Who may pull the source has the blob in the target at once, and can read it there."""
    source, target, layer = fresh(here, "source"), fresh(there, "target"), blob("readable")
    gateway.wire(ALICE).push_blob(source, layer)
    wire = caller(gateway, way, account, target, source)
    answer = mount(wire, target, layer.digest, source).expect(201)
    assert answer.header("Docker-Content-Digest") == layer.digest
    assert urlsplit(answer.location).path == f"/v2/{target}/blobs/{layer.digest}"
    assert wire.get(answer.location).expect(200).body == layer.content


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize(("account", "there", "here"), STRANGERS)
def test_an_unreadable_source_is_a_missing_one(
    gateway: GatewayProcess, account: Account, there: str, here: str, way: str
) -> None:
    """Who can't read the source hears, byte for byte, what they hear of a source or a blob that does not exist."""
    source, layer = fresh(here, "source"), blob("unreadable")
    gateway.wire(ALICE).push_blob(source, layer)
    told = []
    for name, digest in (
        (source, layer.digest),
        (source, blob("nowhere").digest),
        (fresh(here, "source"), layer.digest),
        (fresh("acme/nothing", "source"), layer.digest),
        (fresh("nobody/at-all", "source"), layer.digest),
    ):
        target = fresh(there, "target")
        wire = caller(gateway, way, account, target, name)
        told.append(heard(mount(wire, target, digest, name).expect(202), target))
    assert told == told[:1] * len(told)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize(("account", "there", "here"), STRANGERS)
def test_after_a_refused_mount_the_upload_goes_on(
    gateway: GatewayProcess, account: Account, there: str, here: str, way: str
) -> None:
    """The target holds nothing before the upload that was offered instead ends, and the blob after it."""
    source, target, layer = fresh(here, "source"), fresh(there, "target"), blob("uploaded")
    gateway.wire(ALICE).push_blob(source, layer)
    wire = caller(gateway, way, account, target, source)
    location = mount(wire, target, layer.digest, source).expect(202).location
    assert wire.get(f"/v2/{target}/blobs/{layer.digest}").status == 404
    half = len(layer.content) // 2
    location = wire.append(location, layer.content[:half]).expect(202).location
    wire.close_upload(location, layer.digest, layer.content[half:]).expect(201)
    assert wire.get(f"/v2/{target}/blobs/{layer.digest}").expect(200).body == layer.content


@pytest.mark.parametrize("way", WAYS)
def test_a_digest_alone_opens_nothing(gateway: GatewayProcess, way: str) -> None:
    """Without a source, a blob that lies only where the caller can't read is a blob that lies nowhere."""
    hidden, told = blob("hidden"), []
    source = fresh(UNREADABLE, "source")
    gateway.wire(ALICE).push_blob(source, hidden)
    for digest in (hidden.digest, blob("nowhere").digest):
        target = fresh(PRIVATE, "target")
        wire = caller(gateway, way, CAROL, target, source)
        told.append(heard(mount(wire, target, digest, None).expect(202), target))
    assert told[0] == told[1]


def test_a_token_that_did_not_ask_for_the_source_mounts_nothing(gateway: GatewayProcess) -> None:
    """A token opens what it was asked for: without the source in it, even its reader uploads."""
    source, layer = fresh(PRIVATE, "source"), blob("not asked for")
    gateway.wire(CAROL).push_blob(source, layer)
    told = []
    for name in (source, fresh(PRIVATE, "source")):
        target = fresh(PRIVATE, "target")
        wire = gateway.wire(gateway.wire(CAROL).token(scope(target, "pull,push")))
        told.append(heard(mount(wire, target, layer.digest, name).expect(202), target))
    assert told[0] == told[1]


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("source", ["", "CONF/project", "../conf/project", "conf/a/../project", "\x00", "conf//x"])
def test_an_odd_source_is_no_source(gateway: GatewayProcess, way: str, source: str) -> None:
    """A source that can't be a name is a source that does not exist."""
    target = fresh(PRIVATE, "target")
    wire = caller(gateway, way, CAROL, target, PRIVATE)
    mount(wire, target, blob("odd").digest, source).expect(202)


@pytest.mark.parametrize("way", WAYS)
def test_reading_the_source_is_no_right_to_the_target(gateway: GatewayProcess, way: str) -> None:
    """A reporter who may read the source still may not put its blob into the target."""
    source, target, layer = fresh(PRIVATE, "source"), fresh(PRIVATE, "target"), blob("read only")
    gateway.wire(CAROL).push_blob(source, layer)
    wire = caller(gateway, way, BOB, target, source)
    assert "developer" in mount(wire, target, layer.digest, source).expect(403).json()["errors"][0]["message"]
    gateway.wire(CAROL).get(f"/v2/{target}/blobs/{layer.digest}").expect(404)
