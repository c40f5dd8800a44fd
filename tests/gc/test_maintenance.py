"""The mode in which nothing is pushed or deleted: pulls go on, everything else hears 503 and why."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from tests.support import images
from tests.support.gateway import GatewayProcess
from tests.support.people import BOB, CAROL, DAVE, PRIVATE
from tests.support.wire import Answer, Wire

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.conftest import GatewayFactory
    from tests.support.containers import Containers

IMAGE = images.image(b"served all the time")
REASON = "moving to larger disks"
UNTOUCHED = f"/v2/{PRIVATE}/manifests/never"
BLOB = f"/v2/{PRIVATE}/blobs/{IMAGE.layers[0].digest}"
UPLOADS = f"/v2/{PRIVATE}/blobs/uploads/"

WRITES = {
    "upload": ("POST", UPLOADS),
    "whole blob": ("POST", f"{UPLOADS}?digest={IMAGE.layers[0].digest}"),
    "mount": ("POST", f"{UPLOADS}?mount={IMAGE.layers[0].digest}&from={PRIVATE}"),
    "manifest": ("PUT", UNTOUCHED),
    "deletion of a tag": ("DELETE", f"/v2/{PRIVATE}/manifests/1"),
    "deletion of a manifest": ("DELETE", f"/v2/{PRIVATE}/manifests/{IMAGE.manifest.digest}"),
    "deletion of a blob": ("DELETE", BLOB),
}
READS = {
    "base": "/v2/",
    "manifest": f"/v2/{PRIVATE}/manifests/1",
    "blob": BLOB,
    "tags": f"/v2/{PRIVATE}/tags/list",
    "catalog": "/v2/_catalog",
    "referrers": f"/v2/{PRIVATE}/referrers/{IMAGE.manifest.digest}",
}


def switch(gateway: GatewayProcess, asked: object) -> Answer:
    """Ask the admin listener for a mode."""
    return Wire(gateway.admin_url).send("PUT", "/maintenance", json.dumps(asked).encode())


def mode(gateway: GatewayProcess) -> dict[str, Any]:
    """Ask the admin listener which mode it is."""
    said = Wire(gateway.admin_url).get("/maintenance").expect(200).json()
    assert isinstance(said, dict)
    return said


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[GatewayProcess]:
    """Serve an image with two workers."""
    process = GatewayProcess(tmp_path_factory.mktemp("gateway"), workers=2)
    process.start()
    process.wire(CAROL).push_image(PRIVATE, "1", IMAGE)
    yield process
    process.end()


@pytest.fixture
def read_only(gateway: GatewayProcess) -> Iterator[GatewayProcess]:
    """Switch it to read-only, and back."""
    switch(gateway, {"mode": "read_only", "reason": REASON}).expect(200)
    yield gateway
    switch(gateway, {"mode": None}).expect(200)


@pytest.mark.parametrize(("method", "path"), WRITES.values(), ids=WRITES.keys())
def test_nothing_is_changed(read_only: GatewayProcess, method: str, path: str) -> None:
    """Each push and deletion is 503 with the reason and the time after which to come again; what is there stays."""
    answer = read_only.wire(DAVE).send(method, path, b"{}" if method == "PUT" else None).expect(503)
    assert answer.header("Retry-After") == "30"
    (error,) = answer.json()["errors"]
    assert error["code"] == "UNAVAILABLE"
    assert error["message"] == (
        f"the registry is read-only for maintenance ({REASON}): pulls go on, push or delete again later"
    )
    assert read_only.wire(BOB).manifest(PRIVATE, "1").expect(200).body == IMAGE.manifest.content


@pytest.mark.parametrize("path", READS.values(), ids=READS.keys())
def test_pulls_go_on(read_only: GatewayProcess, path: str) -> None:
    """Whatever only reads is answered as ever, by Basic and under a token that is made meanwhile."""
    bob = read_only.wire(BOB)
    bob.get(path).expect(200)
    bob.acting_as(bob.token(f"repository:{PRIVATE}:pull")).get(READS["manifest"]).expect(200)


def test_whoever_may_not_push_hears_that_first(read_only: GatewayProcess) -> None:
    """The mode tells nothing to those who would be refused anyway."""
    read_only.wire(BOB).send("POST", UPLOADS).expect(403)
    read_only.wire().send("POST", UPLOADS).expect(401)


def test_every_worker_hears_of_it_at_once(gateway: GatewayProcess) -> None:
    """From the answer of the switch on, no worker begins a push; and none refuses one after the next switch."""
    carol = gateway.wire(CAROL)
    for _ in range(3):
        switch(gateway, {"mode": "read_only"}).expect(200)
        assert {carol.send("POST", UPLOADS).status for _ in range(8)} == {503}
        switch(gateway, {"mode": None}).expect(200)
        assert {carol.send("POST", UPLOADS).status for _ in range(8)} == {202}


def test_an_upload_goes_on_afterwards(gateway: GatewayProcess) -> None:
    """An upload in flight is refused its next chunk, keeps what it has, and is finished when the mode is over."""
    carol, content = gateway.wire(CAROL), images.noise(200_000)
    location = carol.append(carol.start_upload(PRIVATE), content[:100_000]).expect(202).location
    switch(gateway, {"mode": "read_only"}).expect(200)
    carol.append(location, content[100_000:], start=100_000).expect(503)
    carol.close_upload(location, images.sha256(content), content[100_000:]).expect(503)
    assert carol.get(location).expect(204).header("Range") == "0-99999"
    switch(gateway, {"mode": None}).expect(200)
    carol.close_upload(location, images.sha256(content), content[100_000:]).expect(201)
    assert carol.get(f"/v2/{PRIVATE}/blobs/{images.sha256(content)}").expect(200).body == content


def test_the_switch_tells_what_is(gateway: GatewayProcess) -> None:
    """It says the mode, why, since when and by whom, and so do the metrics."""
    assert mode(gateway) == {"mode": None, "reason": None, "since": None, "by": None}
    said = switch(gateway, {"mode": "read_only", "reason": REASON}).expect(200).json()
    assert said == mode(gateway) == {"mode": "read_only", "reason": REASON, "since": said["since"], "by": "switch"}
    assert "\nregistry_gateway_read_only 1.0\n" in Wire(gateway.admin_url).get("/metrics").body.decode()
    switch(gateway, {"mode": None}).expect(200)
    assert "\nregistry_gateway_read_only 0.0\n" in Wire(gateway.admin_url).get("/metrics").body.decode()


@pytest.mark.parametrize(
    "asked",
    [
        None,
        [],
        "read_only",
        {},
        {"mode": "readonly"},
        {"mode": True},
        {"mode": "read_only", "reason": 5},
        {"mode": "read_only", "reason": "a\nb"},
        {"mode": "read_only", "reason": "x" * 501},
        {"mode": "read_only", "color": "blue"},
    ],
    ids=["null", "list", "word", "nothing", "misspelt", "true", "number", "two lines", "long", "unknown"],
)
def test_a_wrong_wish_changes_nothing(gateway: GatewayProcess, asked: object) -> None:
    """What is no mode is 400 with a sentence, and the mode stays as it was."""
    assert switch(gateway, asked).expect(400).json()["error"]
    assert mode(gateway)["mode"] is None


def test_only_get_and_put(gateway: GatewayProcess) -> None:
    """Other methods are 405 and name those that there are."""
    assert Wire(gateway.admin_url).send("DELETE", "/maintenance").expect(405).header("Allow") == "GET, PUT"


def test_the_public_port_has_no_switch(gateway: GatewayProcess) -> None:
    """Clients of the registry can't reach it."""
    gateway.wire(DAVE).send("PUT", "/maintenance", b'{"mode": "read_only"}').expect(404)


def test_it_outlives_a_restart_and_the_configuration_wins(gateway_factory: GatewayFactory) -> None:
    """What was switched holds after a kill; what the configuration says can't be switched off."""
    gateway = gateway_factory()
    switch(gateway, {"mode": "read_only"}).expect(200)
    gateway.kill()
    gateway.start()
    gateway.wire(CAROL).send("POST", UPLOADS).expect(503)
    switch(gateway, {"mode": None}).expect(200)
    gateway.wire(CAROL).send("POST", UPLOADS).expect(202)
    gateway.stop()
    gateway.config.write_text(f"maintenance: read_only\n{gateway.config.read_text()}")
    gateway.start()
    assert mode(gateway) == {"mode": "read_only", "reason": None, "since": None, "by": "configuration"}
    assert "the configuration says" in switch(gateway, {"mode": None}).expect(409).json()["error"]
    gateway.wire(CAROL).send("POST", UPLOADS).expect(503)


def test_a_client_pulls_and_fails_to_push(read_only: GatewayProcess, containers: Containers) -> None:
    """With skopeo images come as ever, and a push ends at once with the status."""
    containers.allow_http(read_only.host)
    containers.login(read_only.host, CAROL)
    image, here = f"docker://{read_only.host}/{PRIVATE}", f"oci:{containers.folder / 'pulled'}:1"
    containers.skopeo("copy", f"{image}:1", here)
    assert "503 Service Unavailable" in containers.skopeo("copy", here, f"{image}:2", fails=True).said
