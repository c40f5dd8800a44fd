"""Writes that go past the gateway are heard of by the registry's own webhook."""

from __future__ import annotations

import hashlib
import json
import threading
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytest

from gateway import app, launcher
from gateway.config import load
from gateway.core import keys
from gateway.errors import ConfigError
from gateway.plugins import NoCache
from tests.crawling.conftest import APP, A, B, C, Place, listed, push_index, read_by
from tests.support.distribution import Distribution, distribution, notifying
from tests.support.images import LAYER, MANIFEST, Blob, Image, _document
from tests.support.peers import eventually, free_port
from tests.support.people import ALICE
from tests.support.wire import Answer, Wire

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

TOKEN = "the registry and the gateway know this"
PATH = "/notifications/backend_distribution"


@dataclass
class Told:
    """A gateway, and a registry that tells it what happens there."""

    place: Place
    registry: Distribution

    @property
    def there(self) -> Wire:
        """Past the gateway."""
        return Wire(self.registry.url)

    @property
    def alice(self) -> Wire:
        """Through the gateway, as an owner of it all."""
        return self.place.gateway.wire(ALICE)

    def recorded(self, name: str, tags: dict[str, str]) -> None:
        """Wait until *tags* are those that are recorded of a repository."""
        eventually(lambda: self.place.records().tags.get(name, {}) == tags, f"{name} has {tags} in the records")

    def heard(self) -> int:
        """How many of the registry's requests the gateway answered."""
        return self.place.gateway.log.count(f'"route":"{PATH}"')

    def post(self, body: bytes, **headers: str) -> Answer:
        """Tell the gateway something as the registry does."""
        shown = {"X-Notifications-Token": TOKEN, "Content-Type": "application/vnd.docker.distribution.events.v1+json"}
        return Wire(self.place.gateway.base_url).send("POST", PATH, body, {**shown, **headers})


@pytest.fixture(scope="module", params=[False, True], ids=["shared", "exclusive"])
def told(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Told]:
    """Run both; the secret is in a file."""
    folder = tmp_path_factory.mktemp("told")
    (folder / "token").write_text(f"{TOKEN}\n")
    port = free_port()
    keys = {"exclusive": request.param, "notifications_token_file": str(folder / "token")}
    place = Place(folder / "gateway", f"http://127.0.0.1:{port}", **keys)
    tells = notifying(f"{place.gateway.base_url}{PATH}", TOKEN)
    with distribution(folder, port=port, notifications=tells) as registry:
        place.gateway.start()
        yield Told(place, registry)
        # It may have much to look at still.
        place.gateway.kill()


# -- what the registry tells ------------------------------------------------------------------------------


def test_a_push_past_the_gateway(told: Told) -> None:
    """An image and an index that were pushed past the gateway are recorded, whole, and stand in the catalog."""
    name = f"{APP}/pushed"
    told.there.push_image(name, "1", A)
    push_index(told.there, name, "many")
    tags: dict[str, str] = told.there.get(f"/v2/{name}/tags/list").json()
    digests = {tag: told.there.manifest(name, tag).header("Docker-Content-Digest") for tag in tags["tags"]}
    told.recorded(name, digests)
    found = told.place.records()
    assert set(found.manifests[name]) >= {A.manifest.digest, *digests.values()}
    assert len(found.manifests[name]) == 4
    assert found.projects[name] == APP
    assert ("layer", A.layers[0].digest) in found.references[name, A.manifest.digest]
    assert name in listed(told.alice)


def test_a_move_past_the_gateway(told: Told) -> None:
    """A tag that was known and is moved past the gateway is seen to be moved, by everybody."""
    name = f"{APP}/moved"
    told.alice.push_image(name, "1", A)
    for image in (B, C, A):
        told.there.push_image(name, "1", image)
        told.recorded(name, {"1": image.manifest.digest})
        assert told.alice.manifest(name, "1").body == image.manifest.content


def test_a_deletion_past_the_gateway(told: Told) -> None:
    """A manifest that is deleted past the gateway is gone, with its tags and no others."""
    name = f"{APP}/deleted"
    for tag, image in {"1": A, "2": A, "3": B}.items():
        told.alice.push_image(name, tag, image)
    told.there.send("DELETE", f"/v2/{name}/manifests/{A.manifest.digest}").expect(202)
    told.recorded(name, {"3": B.manifest.digest})
    for reference in ("1", "2", A.manifest.digest):
        assert told.alice.manifest(name, reference).status == 404
    assert "alice" in told.place.records().pushed_by[name, "3"]


def test_our_own_pushes_cost_nothing(told: Told) -> None:
    """What was pushed through the gateway is told of, and nobody asks the registry for it."""
    name = f"{APP}/ours"
    heard, asked = told.heard(), len(read_by(told.registry))
    for number, image in enumerate((A, B, C)):
        told.alice.push_image(name, f"{number}", image)
    # Each has a config, a layer and a manifest.
    eventually(lambda: told.heard() >= heard + 9, "the registry tells of all of it")
    # What is told later is looked at later.
    told.there.push_image(f"{APP}/later", "1", A)
    told.recorded(f"{APP}/later", {"1": A.manifest.digest})
    lines = [line for line in read_by(told.registry)[asked:] if f"/{name}/manifests/" in line]
    assert [line for line in lines if not line.startswith("PUT ")] == []
    assert all("alice" in told.place.records().pushed_by[name, f"{number}"] for number in range(3))


def test_what_the_registry_calls_otherwise_stays(told: Told) -> None:
    """What was pushed by sha512, or what the registry refuses, is told of by another name or as gone: it stays."""
    name = f"{APP}/otherwise"
    told.alice.push_image(name, "1", A)
    digest = f"sha512:{hashlib.sha512(B.manifest.content).hexdigest()}"
    for blob in (B.config, *B.layers):
        told.alice.push_blob(name, blob)
    heard = told.heard()
    told.alice.put_manifest(name, digest, B.manifest).expect(201)
    eventually(lambda: told.heard() > heard, "the registry tells of it")
    foreign = Blob("application/vnd.oci.image.layer.nondistributable.v1.tar", b"nobody has this")
    held = Image(A.config, (foreign,), _manifest(A.config, foreign), "amd64")
    told.alice.put_manifest(name, "1", held.manifest).expect(201)
    told.there.push_image(f"{APP}/after", "1", A)
    told.recorded(f"{APP}/after", {"1": A.manifest.digest})
    assert told.alice.manifest(name, digest).expect(200).body == B.manifest.content
    assert told.alice.manifest(name, "1").expect(200).body == held.manifest.content


def _manifest(config: Blob, layer: Blob) -> Blob:
    layers = [layer.descriptor]
    return _document(
        MANIFEST, {"schemaVersion": 2, "mediaType": MANIFEST, "config": config.descriptor, "layers": layers}
    )


# -- who may tell -----------------------------------------------------------------------------------------

NO_TOKEN: dict[str, str] = {}


@pytest.mark.parametrize(
    "shown",
    ["", TOKEN[:-1], f"{TOKEN}x", TOKEN.upper(), f"Bearer {TOKEN}", "\u00ff\u00fe"],
    ids=["none", "a part", "more", "capitals", "bearer", "no text"],
)
def test_others_are_refused(told: Told, shown: str) -> None:
    """Without the secret nothing is read: 401 in the specification's form, and no log has what was shown."""
    digest = A.manifest.digest
    answer = told.post(_envelope(_push(f"{APP}/forged", digest, "1")), **{"X-Notifications-Token": shown}).expect(401)
    (error,) = answer.json()["errors"]
    assert error["code"] == "UNAUTHORIZED"
    assert TOKEN not in answer.body.decode()
    assert TOKEN not in told.place.gateway.log
    assert not shown or shown not in told.place.gateway.log
    assert "unexpected" not in told.place.gateway.log


def test_without_the_header(told: Told) -> None:
    """A request without the header is refused, and so is any other method."""
    wire = Wire(told.place.gateway.base_url)
    wire.send("POST", PATH, b'{"events": []}').expect(401)
    wire.send("GET", PATH).expect(405)


def test_without_a_secret_there_is_no_webhook(place: Place) -> None:
    """Where no secret is configured there is no such endpoint."""

    def webhooks() -> list[tuple[str, str]]:
        plugins = app.build(load(place.config), keys.ephemeral(), NoCache()).plugins
        found = [(one.method, one.path) for one in plugins.endpoints()]
        return [one for one in found if one[1].startswith("/notifications")]

    assert webhooks() == []
    place.configure(notifications_token=TOKEN)
    assert webhooks() == [("POST", PATH)]


@pytest.mark.parametrize("key", ["notifications_token", "notifications_token_file"])
def test_an_empty_secret_is_none(place: Place, tmp_path: Path, key: str) -> None:
    """A secret that everybody knows stops the start, in one line."""
    (tmp_path / "empty").write_text("\n")
    place.configure(**{key: "" if key == "notifications_token" else str(tmp_path / "empty")})
    with pytest.raises(ConfigError) as caught:
        launcher.check(place.config)
    (line,) = caught.value.problems
    assert "notifications_token" in line


# -- what is told -----------------------------------------------------------------------------------------


def _push(name: Any, digest: Any, tag: Any = None, media_type: Any = MANIFEST) -> dict[str, Any]:
    """Make the event of a push (Distribution, "Work with notifications")."""
    target = {"mediaType": media_type, "digest": digest, "repository": name, "length": 1, "size": 1}
    return {"action": "push", "target": {**target, "tag": tag} if tag is not None else target}


def _envelope(*events: Any) -> bytes:
    return json.dumps({"events": events}).encode()


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        b"\xff",
        b'{"events": 5}',
        b'{"events": {}}',
        b"{}",
        b"[" * 100_000,
        b'{"a": 1' + b"0" * 5000,
    ],
    ids=["empty", "cut", "list", "null", "bytes", "number", "object", "none", "deep", "long"],
)
def test_what_is_no_envelope(told: Told, body: bytes) -> None:
    """Whatever is no list of events is 400, in the specification's form."""
    assert told.post(body).expect(400).json()["errors"][0]["code"] == "UNSUPPORTED"


@pytest.mark.parametrize("announced", [True, False])
def test_too_much(told: Told, announced: bool) -> None:  # noqa: FBT001 - a parameter
    """More than 4 MiB is 413, whether its length is announced or not."""
    size = 4 * 1024 * 1024 + 1
    body: Any = b" " * size if announced else iter([b" " * (size // 2)] * 3)
    shown = {"X-Notifications-Token": TOKEN}
    assert Wire(told.place.gateway.base_url).send("POST", PATH, body, shown).expect(413).json()["errors"]


def test_what_tells_of_no_manifest(told: Told) -> None:
    """Events of blobs, of other types and of other actions, and what is no event, are passed over; the rest counts."""
    name, digest = f"{APP}/mixed", A.manifest.digest
    told.there.push_image(f"{APP}/mixed-source", "1", A)
    told.there.push_image(name, "1", A)
    asked = len(read_by(told.registry))
    others = f"{APP}/others"
    events: list[Any] = [
        5,
        None,
        [],
        {},
        {"action": "push"},
        {"action": "push", "target": []},
        {"action": ["push"], "target": {"repository": others, "digest": digest, "mediaType": MANIFEST}},
        _push(others, digest, media_type="application/octet-stream"),
        _push(others, digest, media_type=LAYER),
        _push(others, digest, media_type=[MANIFEST]),
        _push(others, digest, media_type=None),
        _push(others, "sha256:short", "1"),
        _push(others, {"a": 1}, "1"),
        _push([others], digest),
        _push("../others", digest),
        _push("a" * 10_000, digest),
        _push("acme/\ud800", digest),
        {**_push(others, digest, "1"), "action": "pull"},
        {**_push(others, digest, "1"), "action": "mount"},
        {"action": "delete", "target": {"repository": others, "digest": A.layers[0].digest}},
        _push(name, digest, "no tag"),
        _push(name, digest, "1"),
    ]
    told.post(_envelope(*events)).expect(200)
    told.recorded(name, {"1": digest})
    assert [line for line in read_by(told.registry)[asked:] if "others" in line] == []
    assert "unexpected" not in told.place.gateway.log


def test_what_is_told_is_not_believed(told: Told) -> None:
    """The registry's own answer decides: what an event says falsely is not recorded, and moves no tag."""
    name = f"{APP}/believed"
    told.alice.push_image(name, "1", A)
    lies = [
        _push(name, B.manifest.digest, "1"),
        _push(name, B.manifest.digest, "2"),
        {"action": "delete", "target": {"repository": name, "tag": "1"}},
    ]
    told.post(_envelope(*lies)).expect(200)
    told.recorded(name, {"1": A.manifest.digest})
    assert told.alice.manifest(name, "1").body == A.manifest.content
    assert set(told.place.records().manifests[name]) == {A.manifest.digest}


def test_many_events_stall_nobody(told: Told) -> None:
    """Ten thousand events in one envelope are taken, and others are answered meanwhile."""
    body = _envelope(*(_push(f"acme/app/r{number}", A.manifest.digest, f"t{number}") for number in range(10_000)))
    assert len(body) < 4 * 1024 * 1024
    answers: list[int] = []

    telling = threading.Thread(target=lambda: answers.append(told.post(body).status))
    telling.start()
    waits = []
    while telling.is_alive():
        begun = time.monotonic()
        told.alice.get("/v2/").expect(200)
        waits.append(time.monotonic() - begun)
    assert answers == [200]
    assert len(waits) > 3
    assert max(waits) < 1
