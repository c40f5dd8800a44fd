"""Calls that are passed on to GitLab show it the credential that was recognised here, and no other."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING
from urllib.parse import quote, quote_plus

import pytest

from tests.fakes.gitlab import FakeGitLab
from tests.gitlab_api.conftest import directory
from tests.semantics.company import HOME, token, user
from tests.support.gateway import GatewayProcess

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.support.wire import Answer

PROJECT = f"/api/v4/projects/{quote(HOME, safe='')}"
SECRET = token("personal_access_token", "api").password
DEVELOPER = {"PRIVATE-TOKEN": user("developer").password}
CHANGE = {"container_registry_access_level": "private"}
JSON, FORM, PARTS = "application/json", "application/x-www-form-urlencoded", "multipart/form-data; boundary=b"


@pytest.fixture(scope="module")
def own() -> Iterator[FakeGitLab]:
    """Run a GitLab of the module's own."""
    with FakeGitLab(directory()) as fake:
        yield fake


@pytest.fixture(scope="module")
def gateway(own: FakeGitLab, tmp_path_factory: pytest.TempPathFactory) -> Iterator[GatewayProcess]:
    """Put a gateway before it."""
    sources: list[dict[str, object]] = [
        {"use": "auth_gitlab", "url": own.url},
        {"use": "naming"},
        {"use": "visibility"},
    ]
    process = GatewayProcess(tmp_path_factory.mktemp("passed-on"), sources=sources)
    process.start()
    yield process
    process.end()


@pytest.fixture(autouse=True)
def _fresh(own: FakeGitLab) -> None:
    own.requests.clear()


def get(gateway: GatewayProcess, query: str, **headers: str) -> Answer:
    """Ask for a private project."""
    return gateway.wire().send("GET", f"{PROJECT}?{query}", None, headers)


QUERIES = [
    "access_token={}",
    "bearer_token={}",
    "oauth_token={}",
    "deploy_token={}",
    "feed_token={}",
    "rss_token={}",
    "token={}",
    "access%5Ftoken={}",
    "%61ccess_token={}",
    "+access_token={}",
    "access_token[]={}",
    "[access_token]={}",
    "%5Baccess_token%5D={}",
    "[private_token]={}",
    "x=1;private_token={}",
    "x=1;access_token={}",
    "x=1;job%5Ftoken={}",
    "statistics=false&access_token={}&x",
]


@pytest.mark.parametrize("query", QUERIES)
def test_gitlab_is_shown_no_credential_of_a_query(gateway: GatewayProcess, own: FakeGitLab, query: str) -> None:
    """A parameter that only GitLab would take for a credential does not reach it, however its name is written."""
    get(gateway, query.format(quote_plus(SECRET))).expect(404)
    assert [one.path for one in own.requests] == [PROJECT]
    assert SECRET not in str(own.requests)
    own.requests.clear()
    get(gateway, query.format(quote_plus(SECRET)), **DEVELOPER).expect(200)
    assert SECRET not in str(own.requests)
    assert own.requests[-1].headers["PRIVATE-TOKEN"] == DEVELOPER["PRIVATE-TOKEN"]


@pytest.mark.parametrize("name", ["private_token", "private%5Ftoken", "%70rivate_token"])
def test_a_credential_of_a_query_is_examined(gateway: GatewayProcess, own: FakeGitLab, name: str) -> None:
    """A parameter that is a credential here is recognised as one, and goes on in its header alone."""
    get(gateway, f"{name}={quote_plus(SECRET)}&statistics=false").expect(200)
    passed = own.requests[-1]
    assert (passed.path, passed.query) == (PROJECT, [("statistics", "false")])
    assert passed.headers["PRIVATE-TOKEN"] == SECRET
    own.requests.clear()
    get(gateway, f"{name}=wrong").expect(401)
    assert PROJECT not in [one.path for one in own.requests]


@pytest.mark.parametrize(
    "query", ["statistics=false", "search=access_token", "tokens=1&my_token=2&x", "a=1;b=2", "a&&b=%26token=1", "a=b=c"]
)
def test_other_parameters_arrive_as_they_were(gateway: GatewayProcess, own: FakeGitLab, query: str) -> None:
    """What is no credential is passed on to the letter."""
    get(gateway, query, **DEVELOPER).expect(200)
    assert own.targets[-1] == f"{PROJECT}?{query}"


def part(head: str, value: str = SECRET) -> bytes:
    """Write a form of one part."""
    return f"--b\r\n{head}\r\n\r\n{value}\r\n--b--\r\n".encode()


BODIES = [
    pytest.param(JSON, json.dumps({**CHANGE, "private_token": SECRET}).encode(), id="JSON"),
    pytest.param(JSON, f'{{"access\\u005ftoken": "{SECRET}"}}'.encode(), id="JSON, escaped"),
    pytest.param("", json.dumps({"job_token": SECRET}).encode(), id="without a type"),
    pytest.param(FORM, f"access_token={SECRET}".encode(), id="form"),
    pytest.param(FORM, f"a=1&bearer%5Ftoken={SECRET}".encode(), id="form, encoded"),
    pytest.param(FORM, f"a=1; private_token={SECRET}".encode(), id="form, other separator"),
    pytest.param(f"{FORM}; charset=UTF-8", f"[token]={SECRET}".encode(), id="form, brackets"),
    pytest.param(PARTS, part('Content-Disposition: form-data; name="private_token"'), id="parts"),
    pytest.param(PARTS, part("content-disposition: form-data; name=access_token"), id="parts, without quotes"),
    pytest.param(PARTS, part('Content-Disposition: form-data;\r\n name="token"'), id="parts, folded"),
    pytest.param(PARTS, part('Content-Disposition: form-data; name="job\\_token"'), id="parts, escaped"),
    pytest.param(PARTS, part("Content-ID: private_token"), id="parts, by id"),
    pytest.param(PARTS.upper(), part("Content-ID: private_token"), id="parts, in capitals"),
]


@pytest.mark.parametrize(("kind", "body"), BODIES)
def test_a_credential_in_a_body_is_refused(gateway: GatewayProcess, own: FakeGitLab, kind: str, body: bytes) -> None:
    """A change whose body shows GitLab a credential is 400 in its form, and is not passed on."""
    more = {"Content-Type": kind} if kind else {}
    answer = gateway.wire().send("PUT", PROJECT, body, {**DEVELOPER, **more}).expect(400)
    assert answer.json() == {"message": "400 Bad request - a credential goes into a header, not into the body"}
    assert PROJECT not in [one.path for one in own.requests]


GOOD_BODIES = [
    pytest.param(JSON, json.dumps({**CHANGE, "description": "private_token"}).encode(), id="JSON"),
    pytest.param(FORM, b"container_registry_access_level=private&description=token", id="form"),
    pytest.param(PARTS, part('Content-Disposition: form-data; name="description"', "my access_token"), id="parts"),
    pytest.param("text/plain", b"", id="nothing"),
]


@pytest.mark.parametrize(("kind", "body"), GOOD_BODIES)
def test_other_bodies_arrive_as_they_were(gateway: GatewayProcess, own: FakeGitLab, kind: str, body: bytes) -> None:
    """A body that only speaks of credentials is passed on to the letter."""
    headers = {"PRIVATE-TOKEN": SECRET, "Content-Type": kind}
    assert gateway.wire().send("PUT", PROJECT, body, headers).status != 400
    assert (own.requests[-1].path, own.requests[-1].body) == (PROJECT, body)
