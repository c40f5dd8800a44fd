"""The OpenAPI document describes what is there, and what is there keeps to it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import hypothesis
import pytest
import schemathesis
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import response_schema_conformance, status_code_conformance

from tests.rest.place import API, Place, url
from tests.support.gateway import GatewayProcess
from tests.support.images import image, index
from tests.support.people import ALICE_API, PUBLIC

if TYPE_CHECKING:
    from collections.abc import Iterator

DOCUMENT = f"{API}openapi.json"
ROUTES = {
    ("get", "projects/{id}/registry/repositories"),
    ("get", "groups/{id}/registry/repositories"),
    ("get", "registry/repositories/{id}"),
    ("delete", "projects/{id}/registry/repositories/{repository_id}"),
    ("get", "projects/{id}/registry/repositories/{repository_id}/tags"),
    ("delete", "projects/{id}/registry/repositories/{repository_id}/tags"),
    ("get", "projects/{id}/registry/repositories/{repository_id}/tags/{tag_name}"),
    ("delete", "projects/{id}/registry/repositories/{repository_id}/tags/{tag_name}"),
    ("get", "projects/{id}/registry/has_tags"),
    ("get", "groups/{id}/registry/has_tags"),
    ("get", "projects/{id}/registry/cleanup/plan"),
    ("post", "projects/{id}/registry/cleanup/run"),
    ("post", "projects/{id}/registry/cleanup/confirm"),
    ("get", "projects/{id}"),
    ("put", "projects/{id}"),
    ("get", "groups/{id}"),
    ("get", "user"),
    ("get", "version"),
    ("get", "personal_access_tokens/self"),
    ("post", "container_registry_event/events"),
}
"""Semantics 6, 10 and 12."""
SECRET = "the registry and the gateway know this"
CHECKS = [not_a_server_error, status_code_conformance, response_schema_conformance]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    """Serve with a secret for events."""
    gateway = GatewayProcess(tmp_path_factory.mktemp("document"), api={"registry_event_token": SECRET})
    gateway.start()
    yield Place(gateway)
    gateway.end()


@pytest.fixture(scope="module")
def document(place: Place) -> dict[str, Any]:
    """Read it as anybody can."""
    found = place.send("GET", DOCUMENT, None).expect(200).json()
    assert isinstance(found, dict)
    return found


def test_it_names_every_route(document: dict[str, Any]) -> None:
    """And no other."""
    found = {(method, path.removeprefix(API)) for path, item in document["paths"].items() for method in item}
    assert found == ROUTES


def test_it_says_how_to_authenticate(document: dict[str, Any]) -> None:
    """By three headers, or not at all where that may be."""
    listed = document["paths"][f"{API}projects/{{id}}/registry/repositories"]["get"]
    assert listed["security"] == [{"privateToken": []}, {"bearer": []}, {"jobToken": []}, {}]
    assert document["paths"][f"{API}user"]["get"]["security"] == [{"privateToken": []}, {"bearer": []}]
    assert document["components"]["securitySchemes"]["jobToken"]["name"] == "JOB-TOKEN"


def test_it_marks_what_gitlab_lacks(document: dict[str, Any]) -> None:
    """Our parameters, fields and routes say so."""
    tags = document["paths"][f"{API}projects/{{id}}/registry/repositories/{{repository_id}}/tags"]["get"]
    ours = {one["name"] for one in tags["parameters"] if "Ours" in one["description"]}
    assert ours == {"sort", "search", "platform", "pushed_by", "with_details"}
    details = document["components"]["schemas"]["TagDetails"]["properties"]
    assert {name for name, field in details.items() if "Ours" in field.get("description", "")} == {
        "media_type",
        "platforms",
        "pushed_at",
        "pushed_by",
    }
    assert "Ours" in document["paths"][f"{API}groups/{{id}}/registry/has_tags"]["get"]["summary"]


RELAYED = {"user", "version", "personal_access_tokens/self", "projects/{id}", "groups/{id}"}
"""What a GitLab behind answers, where there is one."""


def test_it_names_every_status(document: dict[str, Any]) -> None:
    """Too many wrong tokens stop every route, and a GitLab behind may answer with any status."""
    for path, item in document["paths"].items():
        for operation in item.values():
            assert {"405", "429", "503"} <= set(operation["responses"])
            assert ("default" in operation["responses"]) is (path.removeprefix(API) in RELAYED)


def test_it_is_sound(place: Place) -> None:
    """OpenAPI 3.1, every reference resolves."""
    schema = schemathesis.openapi.from_url(place.gateway.base_url + DOCUMENT)
    schema.validate()
    assert schema.specification.version == "3.1.0"


# -- what is there keeps to it --------------------------------------------------------------------------------


@pytest.mark.parametrize(("method", "path"), sorted(ROUTES), ids=[f"{m} {p}" for m, p in sorted(ROUTES)])
def test_no_request_finds_an_undocumented_answer(place: Place, method: str, path: str) -> None:
    """Whatever schemathesis makes of the parameters, mostly of things that are there."""
    known = _pushed(place)
    if path.startswith("groups/"):
        known["id"] = place.get("groups", "acme").expect(200).json()["id"]
    if path.startswith("registry/"):
        known["id"] = known["repository_id"]
    schema = schemathesis.openapi.from_url(place.gateway.base_url + DOCUMENT)
    secret = {"Authorization": SECRET} if path.endswith("/events") else {"PRIVATE-TOKEN": ALICE_API.password}

    @hypothesis.settings(
        max_examples=25,
        deadline=None,
        derandomize=True,
        database=None,
        suppress_health_check=list(hypothesis.HealthCheck),
    )
    @hypothesis.given(
        case=schema[API + path][method.upper()].as_strategy(),
        there=hypothesis.strategies.sampled_from([True, True, True, False]),
    )
    def ask(case: schemathesis.Case[Any], there: bool) -> None:  # noqa: FBT001 - a strategy's value
        if there:
            case.path_parameters = {name: known[name] for name in case.path_parameters or {}}
        case.call_and_validate(checks=CHECKS, headers=secret)

    ask()
    assert "Traceback" not in place.gateway.log


def _pushed(place: Place) -> dict[str, Any]:
    """Push an image and an index, whatever was deleted or disabled before, and say where they are."""
    settings = url("projects", PUBLIC, container_registry_access_level="enabled")
    project = place.send("PUT", settings).expect(200).json()["id"]
    place.push(PUBLIC, image(b"documented"), "v1", "v2")
    place.push(PUBLIC, index("documented"), "multi")
    return {"id": project, "repository_id": place.number(PUBLIC, PUBLIC), "tag_name": "multi"}


FOUND = [
    pytest.param("projects/{id}/registry/repositories?tags=1&tags_count=1", "Repository", id="repositories"),
    pytest.param("registry/repositories/{number}?tags=1&tags_count=1&size=1", "Repository", id="repository"),
    pytest.param("projects/{id}/registry/repositories/{number}/tags?with_details=1", "Tag", id="tags"),
    pytest.param("projects/{id}/registry/repositories/{number}/tags/v1", "TagDetails", id="tag"),
    pytest.param("projects/{id}/registry/repositories/{number}/tags/multi", "TagDetails", id="index"),
]


@pytest.mark.parametrize(("path", "schema"), FOUND)
def test_every_field_of_an_answer_is_documented(place: Place, document: dict[str, Any], path: str, schema: str) -> None:
    """An answer has no field beside those, and with all that can be asked for it has them all."""
    known = _pushed(place)
    answer = place.send("GET", API + path.format(id=known["id"], number=known["repository_id"])).expect(200).json()
    documented = set(document["components"]["schemas"][schema]["properties"])
    for one in answer if isinstance(answer, list) else [answer]:
        assert set(one) | {"size", "delete_api_path"} == documented | {"size", "delete_api_path"}


def test_nobody_needs_a_credential_for_the_document(place: Place) -> None:
    """A bad one does no harm."""
    place.send("GET", DOCUMENT, None, headers={"PRIVATE-TOKEN": "no-such-token"}).expect(200)
    place.send("GET", url("openapi.json"), None).expect(200)
