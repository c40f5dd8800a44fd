"""Settings of a project that GitLab's API changes, kept without a GitLab."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from tests.rest.place import Place, url
from tests.support.images import image
from tests.support.people import ALICE, INTERNAL, MALLORY, PUBLIC

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture
def project(place: Place) -> Iterator[str]:
    """Take a project, and leave it as it was."""
    yield PUBLIC
    place.send("PUT", url("projects", PUBLIC, container_registry_access_level="enabled")).expect(200)


def form(boundary: str, name: str, value: str) -> bytes:
    """Write a form in parts, with a file that nobody wants."""
    return (
        f'--{boundary}\r\nContent-Disposition: form-data; name="avatar"; filename="a.png"\r\n\r\n\0\r\n'
        f'--{boundary}\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n{value}\r\n--{boundary}--\r\n'
    ).encode()


LEVEL = "container_registry_access_level"
WAYS = [
    pytest.param("", json.dumps({LEVEL: "private"}).encode(), "application/json", id="JSON"),
    pytest.param("", f"{LEVEL}=private".encode(), "application/x-www-form-urlencoded", id="form"),
    pytest.param("", form("xyz", LEVEL, "private"), "multipart/form-data; boundary=xyz", id="parts"),
    pytest.param(f"?{LEVEL}=private", b"", "", id="query"),
    pytest.param(
        f"?{LEVEL}=enabled", json.dumps({LEVEL: "private"}).encode(), "application/json", id="body over query"
    ),
]


@pytest.mark.parametrize(("query", "body", "content_type"), WAYS)
def test_a_level_comes_in_each_form(place: Place, project: str, query: str, body: bytes, content_type: str) -> None:
    """python-gitlab sends JSON, curl a form; the answer is the project as it is then."""
    headers = {"Content-Type": content_type} if content_type else {}
    answer = place.send("PUT", url("projects", project) + query, body=body, headers=headers).expect(200)
    assert answer.json()[LEVEL] == "private"
    assert place.get("projects", project).expect(200).json()[LEVEL] == "private"


DEPRECATED = [
    pytest.param({"container_registry_enabled": False}, "disabled", id="off"),
    pytest.param({"container_registry_enabled": "true"}, "enabled", id="on"),
    pytest.param({"container_registry_enabled": "true", LEVEL: "private"}, "private", id="the newer key wins"),
]


@pytest.mark.parametrize(("settings", "level"), DEPRECATED)
def test_the_deprecated_key_still_works(place: Place, project: str, settings: dict[str, Any], level: str) -> None:
    """``container_registry_enabled`` is everyone or nobody."""
    body = json.dumps(settings).encode()
    answer = place.send("PUT", url("projects", project), body=body, headers={"Content-Type": "application/json"})
    shown = answer.expect(200).json()
    assert (shown[LEVEL], shown["container_registry_enabled"]) == (level, level != "disabled")


def test_a_level_counts_for_the_registry_at_once_and_after_a_restart(place: Place, project: str) -> None:
    """It lies in the database, over what the directory says."""
    place.push(f"{project}/kept", image(b"kept"), "v1")
    place.gateway.wire(MALLORY).manifest(f"{project}/kept", "v1").expect(200)
    place.send("PUT", url("projects", project, container_registry_access_level="private")).expect(200)
    place.gateway.wire(MALLORY).manifest(f"{project}/kept", "v1").expect(403)
    place.gateway.restart()
    place.gateway.wire(MALLORY).manifest(f"{project}/kept", "v1").expect(403)
    place.gateway.wire(ALICE).manifest(f"{project}/kept", "v1").expect(200)


def test_a_project_shows_what_concerns_its_images(place: Place) -> None:
    """With GitLab's keys; the prefix is where its images are pushed."""
    shown = place.get("projects", INTERNAL).expect(200).json()
    expected = {
        "name": "internal",
        "path": "internal",
        "path_with_namespace": INTERNAL,
        "visibility": "internal",
        "archived": False,
        "container_registry_enabled": True,
        LEVEL: "enabled",
        "container_registry_image_prefix": f"{place.gateway.host}/{INTERNAL}",
        "permissions": {"project_access": {"access_level": 50}, "group_access": None},
    }
    assert expected.items() <= shown.items()


def test_nobody_is_told_of_permissions(place: Place, project: str) -> None:
    """A public project has none for who is not signed in."""
    assert "permissions" not in place.get("projects", project, account=None).expect(200).json()
