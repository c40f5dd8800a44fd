"""Bad input is refused with GitLab's statuses and sentences, and never a 500."""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING, Any

import pytest

from tests.rest.place import API, Place, url
from tests.support.images import image
from tests.support.people import ALICE_API, INTERNAL, PRIVATE, PUBLIC

if TYPE_CHECKING:
    from collections.abc import Iterator

MIB = 1024 * 1024
NAMES = "name_regex, name_regex_delete are missing, at least one parameter must be provided"
FORM = {"Content-Type": "application/x-www-form-urlencoded"}
JSON = {"Content-Type": "application/json"}


@pytest.fixture(scope="module")
def number(place: Place) -> Iterator[int]:
    """Push an image with two tags, and give its repository's number."""
    place.push(PRIVATE, image(b"bad input"), "v1", "v2")
    yield place.number(PRIVATE, PRIVATE)
    assert "Traceback" not in place.gateway.log


def tags(number: object) -> str:
    """Spell the path of a repository's tags."""
    return url("projects", PRIVATE, "registry", "repositories", str(number), "tags")


# -- ids and names ----------------------------------------------------------------------------------------

LARGE = "9" * 30
PATHS = [
    pytest.param(f"{API}projects/999999999/registry/repositories", 404, "404 Project Not Found", id="no project"),
    pytest.param(f"{API}projects/{LARGE}/registry/repositories", 404, "404 Project Not Found", id="a huge number"),
    pytest.param(f"{API}projects/-1/registry/repositories", 404, "404 Project Not Found", id="a negative number"),
    pytest.param(f"{API}projects/acme%252Fapp/registry/repositories", 404, "404 Project Not Found", id="encoded twice"),
    pytest.param(f"{API}projects/acme/app/registry/repositories", 404, "404 Not Found", id="a bare slash"),
    pytest.param(f"{API}projects//registry/repositories", 404, "404 Project Not Found", id="nothing"),
    pytest.param(f"{API}projects/%00/registry/repositories", 400, "400 Bad request", id="a zero byte"),
    pytest.param(f"{API}projects/%ff/registry/repositories", 400, "400 Bad request", id="no UTF-8"),
    pytest.param(f"{API}projects/%F0%9F%90%B3/registry/repositories", 404, "404 Project Not Found", id="a whale"),
    pytest.param(f"{API}groups/{LARGE}/registry/repositories", 404, "404 Group Not Found", id="no group"),
    pytest.param(f"{API}registry/repositories/{LARGE}", 404, "404 Not found", id="a huge repository"),
    pytest.param(f"{API}registry/repositories/abc", 400, "id is invalid", id="a repository by name"),
    pytest.param(tags("abc"), 400, "repository_id is invalid", id="a repository below a project by name"),
    pytest.param(tags("%2B1"), 400, "repository_id is invalid", id="a sign"),
    pytest.param(tags("999999999"), 404, "404 Not found", id="no repository"),
    pytest.param(tags(LARGE), 404, "404 Not found", id="a huge repository below a project"),
    pytest.param(f"{tags(1)}/{'x' * 129}", 404, "404 Tag Not Found", id="too long a tag"),
    pytest.param(f"{tags(1)}/a%2Fb", 404, "404 Tag Not Found", id="a tag with a slash"),
    pytest.param(f"{tags(1)}/missing", 404, "404 Tag Not Found", id="no tag"),
    pytest.param(f"{tags(1)}/a/b", 404, "404 Not Found", id="a tag with a bare slash"),
    pytest.param(f"{tags(1)}/%00", 400, "400 Bad request", id="a tag with a zero byte"),
    pytest.param(f"{API}nothing", 404, "404 Not Found", id="no route"),
]


@pytest.mark.parametrize(("path", "status", "words"), PATHS)
def test_what_is_not_there_is_not_found(place: Place, number: int, path: str, status: int, words: str) -> None:
    """Unknown numbers and impossible names are 404, what is no number or no text 400."""
    answer = place.send("GET", path.replace("/repositories/1/", f"/repositories/{number}/")).expect(status)
    assert words in answer.json().values()


def test_a_repository_of_another_project_is_not_found(place: Place, number: int) -> None:
    """Also to who may see both."""
    for project in (PUBLIC, INTERNAL):
        for method, below in (("GET", ("tags",)), ("DELETE", ("tags", "v1")), ("DELETE", ())):
            path = url("projects", project, "registry", "repositories", number, *below)
            assert place.send(method, path).expect(404).json() == {"message": "404 Not found"}


def test_a_method_that_a_route_lacks_is_refused(place: Place) -> None:
    """405, with those that it has."""
    answer = place.send("PATCH", url("projects", PRIVATE)).expect(405)
    assert (answer.json(), answer.header("Allow")) == ({"error": "405 Not Allowed"}, "GET, HEAD, PUT")


# -- parameters ---------------------------------------------------------------------------------------------

QUERIES = [
    pytest.param("per_page=0", "per_page does not have a valid value", id="per_page 0"),
    pytest.param("per_page=-1", "per_page does not have a valid value", id="per_page below"),
    pytest.param("per_page=ten", "per_page is invalid", id="per_page no number"),
    pytest.param("per_page=1.5", "per_page is invalid", id="per_page no integer"),
    pytest.param("per_page=%D9%A3", "per_page is invalid", id="per_page in Arabic"),
    pytest.param(f"per_page={LARGE}", "per_page does not have a valid value", id="per_page huge"),
    pytest.param(f"per_page={'9' * 5000}", "per_page does not have a valid value", id="per_page of 5000 digits"),
    pytest.param("page=0", "page does not have a valid value", id="page 0"),
    pytest.param("page=x&per_page=y", "page is invalid, per_page is invalid", id="both"),
    pytest.param("sort=loud", "sort does not have a valid value", id="sort"),
    pytest.param("pagination=keyset&sort=-size", "sort does not have a valid value", id="sort of keyset"),
    pytest.param("pagination=maybe", "pagination does not have a valid value", id="pagination"),
    pytest.param("with_details=maybe", "with_details is invalid", id="boolean"),
    pytest.param("page[x]=1", "page is invalid", id="brackets"),
]


@pytest.mark.parametrize(("query", "sentence"), QUERIES)
def test_a_bad_parameter_is_named(place: Place, number: int, query: str, sentence: str) -> None:
    """400 with one sentence for each."""
    assert place.send("GET", f"{tags(number)}?{query}").expect(400).json() == {"error": sentence}


@pytest.mark.parametrize("query", ["search=%00", "search=%ff", "pushed_by=%ED%A0%80", "private_token=%00", "a=%ff"])
def test_a_parameter_that_is_no_text_is_refused(place: Place, number: int, query: str) -> None:
    """A zero byte or broken UTF-8 is 400, as GitLab says of malformed strings."""
    account = None if "token" in query else ALICE_API
    answer = place.send("GET", f"{tags(number)}?{query}", account).expect(400)
    assert answer.json() == {"message": "400 Bad request"}


@pytest.mark.parametrize("query", ["search=%25", "search=_", "search=%5C", "platform=%25", "pushed_by='", "search=%22"])
def test_what_means_something_to_a_database_means_nothing(place: Place, number: int, query: str) -> None:
    """No tag has such a name, platform or pusher."""
    assert place.send("GET", f"{tags(number)}?{query}").expect(200).json() == []


TRUE = ("1", "on", "On", "ON", "t", "true", "True", "TRUE", "T", "y", "yes", "Yes", "YES", "Y")
FALSE = ("0", "off", "Off", "OFF", "f", "false", "False", "FALSE", "F", "n", "no", "No", "NO", "N", "")


@pytest.mark.parametrize(("spelling", "there"), [*((one, True) for one in TRUE), *((one, False) for one in FALSE)])
def test_a_boolean_comes_in_every_spelling(place: Place, number: int, spelling: str, there: bool) -> None:  # noqa: FBT001 - it is the point
    """Those that GitLab's framework takes."""
    shown = place.get("registry", "repositories", number, tags_count=spelling).expect(200).json()
    assert ("tags_count" in shown) is there


@pytest.mark.parametrize("spelling", ["maybe", "2", "tRUE", "None", "null", "-1"])
def test_another_word_is_no_boolean(place: Place, number: int, spelling: str) -> None:
    """400, with the parameter's name."""
    answer = place.get("registry", "repositories", number, tags_count=spelling).expect(400)
    assert answer.json() == {"error": "tags_count is invalid"}


# -- bulk deletion --------------------------------------------------------------------------------------------

BULK = [
    pytest.param({}, NAMES, id="nothing"),
    pytest.param({"name_regex_keep": ".*", "keep_n": "3"}, NAMES, id="no names"),
    pytest.param({"name_regex_delete": "("}, "name_regex_delete is an invalid regexp", id="open"),
    pytest.param({"name_regex": "[z-a]"}, "name_regex is an invalid regexp", id="deprecated"),
    pytest.param({"name_regex": ".*", "name_regex_keep": "*"}, "name_regex_keep is an invalid regexp", id="keep"),
    pytest.param({"name_regex": "(?=a)"}, "name_regex is an invalid regexp", id="look-ahead, which RE2 lacks"),
    pytest.param({"name_regex": r"(a)\1"}, "name_regex is an invalid regexp", id="back-reference"),
    pytest.param({"name_regex": "((a{100}){100}){100}"}, "name_regex is an invalid regexp", id="a million copies"),
    pytest.param({"name_regex": "a" * 3000}, "name_regex is an invalid regexp", id="too long"),
    pytest.param({"name_regex": ".*", "keep_n": "x"}, "keep_n is invalid", id="keep_n"),
    pytest.param({"name_regex": ".*", "keep_n": "-1"}, "keep_n does not have a valid value", id="keep_n below"),
    pytest.param({"name_regex": ".*", "older_than": "soon"}, "older_than is invalid", id="older_than"),
    pytest.param({"name_regex": ".*", "older_than": "0d"}, "older_than is invalid", id="older_than nothing"),
    pytest.param({"name_regex": ".*", "older_than": "9" * 4000 + "d"}, "older_than is invalid", id="older_than huge"),
    pytest.param(
        {"name_regex": "(", "keep_n": "x", "older_than": "y"},
        "name_regex is an invalid regexp, keep_n is invalid, older_than is invalid",
        id="all of it",
    ),
]


@pytest.mark.parametrize(("rules", "sentence"), BULK)
def test_a_bad_rule_is_named(place: Place, number: int, rules: dict[str, str], sentence: str) -> None:
    """400, and the hour's turn is not used up."""
    parts = ("projects", PRIVATE, "registry", "repositories", number, "tags")
    assert place.send("DELETE", url(*parts, **rules)).expect(400).json() == {"error": sentence}


CATASTROPHIC = ["(a+)+$", "(a|a)*b", "(.*)*x", "(?:a*)*" * 20, "([a-z]+)*" * 50]


@pytest.mark.parametrize("pattern", CATASTROPHIC, ids=range(len(CATASTROPHIC)))
def test_a_catastrophic_pattern_is_none_here(place: Place, pattern: str) -> None:
    """RE2 takes linear time for what would take others for ever."""
    name = f"{INTERNAL}/pattern-{CATASTROPHIC.index(pattern)}"
    place.push(name, image(b"pattern"), "a" * 100)
    parts = ("projects", INTERNAL, "registry", "repositories", place.number(INTERNAL, name), "tags")
    place.delete(*parts, name_regex=pattern, name_regex_keep="a*").expect(202)


# -- bodies ---------------------------------------------------------------------------------------------------

BODIES = [
    pytest.param(b"{", JSON, 400, "message body does not match declared format", id="no JSON"),
    pytest.param(b"[1]", JSON, 400, "message body does not match declared format", id="a list"),
    pytest.param(b"[" * 100_000, JSON, 400, "message body does not match declared format", id="a deep list"),
    pytest.param(b'"\xff"', JSON, 400, "message body does not match declared format", id="no UTF-8"),
    pytest.param(b'{"a": ' + b"9" * 5000 + b"}", JSON, 400, "message body does not match declared format", id="digits"),
    pytest.param(b"\xff=1", FORM, 400, "400 Bad request", id="a form of no text"),
    pytest.param(b"a=1&" * 2000, FORM, 400, "400 Bad request", id="a form without end"),
    pytest.param(
        b"<a/>",
        {"Content-Type": "text/xml"},
        415,
        "The provided content-type 'text/xml' is not supported.",
        id="XML",
    ),
    pytest.param(
        b"x",
        {"Content-Type": "multipart/form-data"},
        400,
        "message body does not match declared format",
        id="parts without a boundary",
    ),
    *(
        pytest.param(b"x", {"Content-Type": f"multipart/form-data; {boundary}"}, 400, "400 Bad request", id=boundary)
        for boundary in ("boundary*=%00''x", "boundary*=idna''%ff")
    ),
    *(
        pytest.param(
            b"--x\r\nContent-Disposition: form-data; name=a; " + name + b"\r\n\r\nb\r\n--x--",
            {"Content-Type": "multipart/form-data; boundary=x"},
            400,
            "400 Bad request",
            id=name.decode(),
        )
        for name in (b"filename*=idna''%ff", b"filename*=%00''x")
    ),
    pytest.param(
        b'{"container_expiration_policy_attributes": "x"}',
        JSON,
        400,
        "container_expiration_policy_attributes is invalid",
        id="a policy that is a text",
    ),
    pytest.param(
        b'{"container_expiration_policy_attributes": {"keep_n": [], "enabled": {}, "cadence": 1}}',
        JSON,
        400,
        "container_expiration_policy_attributes[cadence] is invalid, "
        "container_expiration_policy_attributes[enabled] is invalid, "
        "container_expiration_policy_attributes[keep_n] is invalid",
        id="a policy of wrong types",
    ),
    pytest.param(
        b'{"container_expiration_policy_attributes": {"name_regex": "\\ud800"}}',
        JSON,
        400,
        "400 Bad request",
        id="half a character",
    ),
    pytest.param(
        b'{"container_registry_access_level": "open"}',
        JSON,
        400,
        "container_registry_access_level does not have a valid value",
        id="no level",
    ),
    pytest.param(
        b"container_registry_enabled=perhaps", FORM, 400, "container_registry_enabled is invalid", id="no boolean"
    ),
    pytest.param(
        b'{"description": "x"}',
        JSON,
        400,
        "container_registry_access_level, container_registry_enabled, container_expiration_policy_attributes "
        "are missing, at least one parameter must be provided",
        id="nothing of ours",
    ),
]


@pytest.mark.parametrize(("body", "headers", "status", "words"), BODIES)
def test_a_bad_body_is_refused(place: Place, body: bytes, headers: dict[str, str], status: int, words: str) -> None:
    """In GitLab's words, and nothing is changed."""
    answer = place.send("PUT", url("projects", PRIVATE), body=body, headers=headers).expect(status)
    assert words in answer.json().values()
    level = place.get("projects", PRIVATE).expect(200).json()["container_registry_access_level"]
    assert level == "enabled"


def begun(place: Place, head: str, body: bytes) -> bytes:
    """Send the beginning of a request, and give the first bytes of its answer."""
    with socket.create_connection(("127.0.0.1", place.gateway.port), timeout=20) as connection:
        connection.sendall(head.encode() + body)
        return connection.recv(65536)


@pytest.mark.parametrize("path", [url("projects", PRIVATE), url("container_registry_event", "events")])
def test_ten_megabytes_are_too_much_from_the_first_byte(place: Place, path: str) -> None:
    """413 as soon as the length is known, without waiting for the rest; events need their secret first."""
    method = "PUT" if "projects" in path else "POST"
    token = f"PRIVATE-TOKEN: {ALICE_API.password}\r\n"
    answer = begun(place, f"{method} {path} HTTP/1.1\r\nHost: x\r\n{token}Content-Length: {10 * MIB}\r\n\r\n", b"{")
    assert answer.startswith(b"HTTP/1.1 413" if method == "PUT" else b"HTTP/1.1 401")


def test_ten_megabytes_without_a_length_are_too_much(place: Place) -> None:
    """413 once there is more than is read."""
    head = (
        f"PUT {url('projects', PRIVATE)} HTTP/1.1\r\nHost: x\r\nPRIVATE-TOKEN: {ALICE_API.password}\r\n"
        "Transfer-Encoding: chunked\r\n\r\n"
    )
    chunk = b"%x\r\n" % MIB + b"x" * MIB + b"\r\n"
    assert begun(place, head, chunk + b"1\r\nx\r\n").startswith(b"HTTP/1.1 413")


def test_a_body_that_breaks_off_is_refused(place: Place) -> None:
    """400 where its client stops sending and still listens, not a failure of ours."""
    head = f"PUT {url('projects', PRIVATE)} HTTP/1.1\r\nHost: x\r\nPRIVATE-TOKEN: {ALICE_API.password}\r\n"
    with socket.create_connection(("127.0.0.1", place.gateway.port), timeout=20) as connection:
        connection.sendall(f"{head}Content-Length: 100\r\n\r\n{{".encode())
        connection.shutdown(socket.SHUT_WR)
        assert connection.recv(65536).startswith(b"HTTP/1.1 400")


def test_a_client_that_waits_is_told_to_go_on(place: Place) -> None:
    """Curl asks before it sends a long body."""
    body = b"container_registry_access_level=enabled"
    head = (
        f"PUT {url('projects', PRIVATE)} HTTP/1.1\r\nHost: x\r\nPRIVATE-TOKEN: {ALICE_API.password}\r\n"
        f"Content-Type: {FORM['Content-Type']}\r\nContent-Length: {len(body)}\r\nExpect: 100-continue\r\n\r\n"
    )
    with socket.create_connection(("127.0.0.1", place.gateway.port), timeout=20) as connection:
        connection.sendall(head.encode())
        assert connection.recv(65536).startswith(b"HTTP/1.1 100")
        connection.sendall(body)
        assert connection.recv(65536).startswith(b"HTTP/1.1 200")


ODD: list[Any] = [
    pytest.param({"PRIVATE-TOKEN": "\xff\xfe"}, 400, id="no text"),
    pytest.param({"PRIVATE-TOKEN": "x" * 30_000}, 401, id="long"),
    pytest.param({"PRIVATE-TOKEN": "  "}, 200, id="blank is none"),
    pytest.param({"Authorization": "Bearer"}, 200, id="Bearer of nothing"),
    pytest.param({"Authorization": "Digest x"}, 200, id="another scheme"),
]


@pytest.mark.parametrize(("headers", "status"), ODD)
def test_an_odd_credential_is_no_failure(place: Place, headers: dict[str, str], status: int) -> None:
    """Of a public project."""
    place.send("GET", url("projects", PUBLIC), None, headers=headers).expect(status)
