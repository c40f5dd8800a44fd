"""A registry tells the gateway of changes as it tells GitLab (semantics 12), and what is indexed is not asked for."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pytest

from tests.rest.place import Place, url
from tests.support.distribution import Distribution, distribution
from tests.support.gateway import GatewayProcess
from tests.support.images import MANIFEST, image
from tests.support.peers import eventually, free_port
from tests.support.people import ALICE_API, PRIVATE
from tests.support.wire import Answer, Wire

if TYPE_CHECKING:
    from collections.abc import Iterator

SECRET = "the registry and the gateway know this"
PATH = url("container_registry_event", "events")
ENVELOPE = {"Content-Type": "application/vnd.docker.distribution.events.v1+json"}


@dataclass
class Told:
    """A gateway that believes its own records, and a registry that tells it of changes past it."""

    place: Place
    registry: Distribution

    def post(self, body: bytes, secret: str | None = SECRET) -> Answer:
        """Tell the gateway something as the registry does."""
        shown = {} if secret is None else {"Authorization": secret}
        return self.place.send("POST", PATH, None, body, {**ENVELOPE, **shown})

    def requests(self) -> int:
        """How many requests about images the registry has answered."""
        log = self.registry.peer.log
        return sum(log.count(f"http.request.method={method}") for method in ("GET", "HEAD"))


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Told]:
    """Run both; the secret is in a file."""
    folder = tmp_path_factory.mktemp("told")
    (folder / "secret").write_text(f"{SECRET}\n")
    port = free_port()
    gateway = GatewayProcess(
        folder / "gateway",
        api={"registry_event_token_file": str(folder / "secret")},
        backend={"use": "backend_distribution", "url": f"http://127.0.0.1:{port}", "exclusive": True},
    )
    endpoint = {
        "name": "gateway",
        "url": f"{gateway.base_url}{PATH}",
        "headers": {"Authorization": [SECRET]},
        "timeout": "2s",
        "threshold": 100,
        "backoff": "100ms",
    }
    with distribution(folder, port=port, notifications={"endpoints": [endpoint]}) as registry:
        gateway.start()
        yield Told(Place(gateway), registry)
        gateway.end()


def test_a_push_past_the_gateway_is_heard_of(told: Told) -> None:
    """The registry's own event, with GitLab's header."""
    told.place.push(PRIVATE, image(b"ours"), "ours")
    assert [tag["name"] for tag in told.place.tags(PRIVATE, PRIVATE)] == ["ours"]
    Wire(told.registry.url).push_image(PRIVATE, "theirs", image(b"theirs"))
    eventually(lambda: len(told.place.tags(PRIVATE, PRIVATE)) == 2, "the event is heard")


def test_a_page_of_indexed_tags_asks_the_registry_nothing(told: Told) -> None:
    """Whatever the page shows."""
    name = f"{PRIVATE}/indexed"
    told.place.push(name, image(b"indexed"), *(f"t{number}" for number in range(5)))
    told.place.tags(PRIVATE, name, with_details=1)
    before = told.requests()
    assert before > 0
    for query in ({}, {"with_details": 1}, {"sort": "-size", "per_page": 2}, {"search": "t", "pagination": "keyset"}):
        assert told.place.tags(PRIVATE, name, **query)
    assert told.requests() == before


SECRETS = [
    pytest.param(None, id="none"),
    pytest.param("", id="empty"),
    pytest.param(f"Bearer {SECRET}", id="with a scheme"),
    pytest.param(SECRET[:-1], id="nearly"),
    pytest.param("\xff", id="no text"),
]


@pytest.mark.parametrize("secret", SECRETS)
def test_without_the_secret_nobody_is_heard(told: Told, secret: str | None) -> None:
    """401, whatever the body is."""
    answer = told.post(b"no envelope", secret)
    assert (answer.status, answer.json()) == (401, {"message": "401 Unauthorized"})


def test_an_access_token_is_no_secret(told: Told) -> None:
    """Not even an administrator's: the header is compared and nothing else."""
    told.place.send("POST", PATH, ALICE_API, b'{"events": []}', ENVELOPE).expect(401)


DIGEST = image(b"never pushed").manifest.digest
EVENTS = [
    pytest.param({"events": []}, id="none"),
    pytest.param({"events": [{"action": "pull", "target": {"repository": PRIVATE}}]}, id="a pull"),
    pytest.param({"events": [{"action": "mount", "target": {"repository": PRIVATE}}]}, id="a word GitLab lacks"),
    pytest.param({"events": [{"action": "push"}]}, id="no target"),
    pytest.param({"events": [{"action": "push", "target": {"repository": "A//B", "tag": "-"}}]}, id="impossible names"),
    pytest.param(
        {
            "events": [
                {
                    "action": "push",
                    "target": {"repository": PRIVATE, "digest": DIGEST, "tag": "lie", "mediaType": MANIFEST},
                }
            ]
        },
        id="a push that never was",
    ),
    pytest.param(
        {"events": [{"action": "delete", "target": {"repository": "no/where", "tag": "v1"}}]}, id="nobody's project"
    ),
]


@pytest.mark.parametrize("envelope", EVENTS)
def test_an_odd_event_is_taken(told: Told, envelope: object) -> None:
    """200: the registry would send it again for ever. It is looked into, and lies change nothing."""
    told.post(json.dumps(envelope).encode()).expect(200)
    if told.place.get("projects", PRIVATE, "registry", "repositories").json():
        assert "lie" not in {tag["name"] for tag in told.place.tags(PRIVATE, PRIVATE)}


def test_a_good_event_is_heard_beside_an_odd_one(told: Told) -> None:
    """One that names no repository costs the others nothing."""
    name, content = f"{PRIVATE}/beside", image(b"beside an odd event")
    told.place.push(name, content, "v1")
    past = Wire(told.registry.url)
    digest = past.manifest(name, "v1").expect(200).header("Docker-Content-Digest")
    past.put_manifest(name, "v2", content.manifest).expect(201)
    target = {"repository": name, "digest": digest, "tag": "v2", "mediaType": MANIFEST}
    odd = [{"action": "push", "target": {"digest": digest}}, {"action": "push", "target": {"repository": None}}]
    told.post(json.dumps({"events": [*odd, {"action": "push", "target": target}]}).encode()).expect(200)
    eventually(lambda: len(told.place.tags(PRIVATE, name)) == 2, "the good event is heard")


@pytest.mark.parametrize(
    "body", [b"", b"{", b"[]", b'{"events": 1}', b'{"events": [{}]}', b"[" * 100_000], ids=range(6)
)
def test_what_is_no_envelope_is_refused(told: Told, body: bytes) -> None:
    """400."""
    assert told.post(body).expect(400).json() == {"error": "events is invalid"}


def test_a_long_envelope_is_refused(told: Told) -> None:
    """413: four megabytes are thousands of events."""
    told.post(b"x" * (4 * 1024 * 1024 + 1)).expect(413)


def test_without_a_secret_in_the_configuration_nobody_is_heard(place: Place) -> None:
    """401, also for an empty header."""
    for headers in ({}, {"Authorization": ""}):
        place.send("POST", PATH, None, b'{"events": []}', {**ENVELOPE, **headers}).expect(401)
