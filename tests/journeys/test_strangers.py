"""Whoever may not pull can't tell what exists: hidden, missing and misspelt are one answer, on every resource."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any
from urllib.parse import urlencode

import jwt
import pytest

from tests.support import images
from tests.support.gateway import GatewayProcess
from tests.support.people import (
    ALICE_EXPIRED,
    ALICE_NO_REGISTRY,
    CAROL,
    DEPLOY_ELSEWHERE,
    HIDDEN,
    JOB_ELSEWHERE,
    JOB_FINISHED,
    MALLORY,
    PRIVATE,
    PUBLIC,
)
from tests.support.wire import SERVICE, Account, Answer, Credential

EXISTING = f"{PRIVATE}/existing"
NAMES = {
    "exists": EXISTING,
    "no such image": f"{PRIVATE}/imagined",
    "no such project": "acme/apx/existing",
    "no such group": "nowhere/existing1",
    "a hidden project": HIDDEN,
    "in a hidden group": "acme/secret/apart",
}
"""Of equal length, so that nothing has to differ but the name itself."""
ACTIONS = "pull,push,delete,*"
IMAGE = images.image(b"what a stranger must not learn of")

Way = Callable[[GatewayProcess, str], Credential]


def scope(name: str, actions: str = ACTIONS) -> str:
    """Write a scope."""
    return f"repository:{name}:{actions}"


def itself(account: Account | None) -> Way:
    """Come with the credential itself."""
    return lambda _gateway, _name: account


def with_token(account: Account | None, *others: str, asks: bool = True) -> Way:
    """Come with a token that asked for the name, or did not, and for other scopes."""
    return lambda gateway, name: gateway.wire(account).token(*others, *([scope(name)] if asks else []))


def with_expired_token(account: Account) -> Way:
    """Come with a token whose time is over, signed by the gateway's own key."""

    def comes(gateway: GatewayProcess, name: str) -> Credential:
        token = gateway.wire(account).token(scope(name))
        claims: dict[str, Any] = jwt.decode(token, options={"verify_signature": False})
        now = int(time.time())
        over = {**claims, "iat": now - 600, "nbf": now - 605, "exp": now - 300}
        key = (gateway.data / "signing-key.pem").read_bytes()
        return jwt.encode(over, key, "ES256", {"kid": jwt.get_unverified_header(token)["kid"]})

    return comes


WAYS: dict[str, tuple[Way, int]] = {
    "nobody": (itself(None), 401),
    "nobody-with-a-token": (with_token(None, scope(PUBLIC, "pull")), 403),
    "nobody-with-a-token-for-something-else": (with_token(None, scope(PUBLIC, "pull"), asks=False), 401),
    "stranger": (itself(MALLORY), 403),
    "strangers-token": (with_token(MALLORY), 403),
    "strangers-token-without-a-scope": (with_token(MALLORY, asks=False), 401),
    "strangers-token-for-something-else": (with_token(MALLORY, scope(PUBLIC, "pull"), asks=False), 401),
    "owners-token-without-a-registry-scope": (itself(ALICE_NO_REGISTRY), 403),
    "deploy-token-of-another-project": (itself(DEPLOY_ELSEWHERE), 403),
    "token-for-that-deploy-token": (with_token(DEPLOY_ELSEWHERE), 403),
    "job-of-another-project": (itself(JOB_ELSEWHERE), 403),
    "token-for-that-job": (with_token(JOB_ELSEWHERE), 403),
    "expired-personal-token": (itself(ALICE_EXPIRED), 401),
    "finished-job": (itself(JOB_FINISHED), 401),
    "expired-token": (with_expired_token(MALLORY), 401),
    "expired-token-of-a-member": (with_expired_token(CAROL), 401),
    "garbage-token": (lambda _gateway, _name: "garbage", 401),
}
"""Who comes, and how their every legal request is answered."""

METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE")
LEGAL = {
    "manifest-by-tag": ("manifests/1", {"GET", "HEAD", "PUT", "DELETE"}),
    "manifest-by-missing-tag": ("manifests/2", {"GET", "HEAD", "PUT", "DELETE"}),
    "manifest-by-digest": (f"manifests/{IMAGE.manifest.digest}", {"GET", "HEAD", "PUT", "DELETE"}),
    "manifest-by-missing-digest": (f"manifests/{images.sha256(b'none')}", {"GET", "HEAD", "PUT", "DELETE"}),
    "blob": (f"blobs/{IMAGE.layers[0].digest}", {"GET", "HEAD", "DELETE"}),
    "missing-blob": (f"blobs/{images.sha256(b'none')}", {"GET", "HEAD", "DELETE"}),
    "tags": ("tags/list", {"GET", "HEAD"}),
    "tags-in-pages": ("tags/list?n=1&last=0", {"GET", "HEAD"}),
    "referrers": (f"referrers/{IMAGE.manifest.digest}", {"GET", "HEAD"}),
    "referrers-by-type": (f"referrers/{IMAGE.manifest.digest}?artifactType=a/b", {"GET", "HEAD"}),
    "uploads": ("blobs/uploads/", {"POST"}),
    "whole-upload": (f"blobs/uploads/?digest={images.sha256(b'{}')}", {"POST"}),
    "mount": (f"blobs/uploads/?mount={IMAGE.layers[0].digest}&from={EXISTING}", {"POST"}),
    "mount-without-source": (f"blobs/uploads/?mount={IMAGE.layers[0].digest}", {"POST"}),
    "upload": ("", {"GET", "HEAD", "PUT", "PATCH", "DELETE"}),
    "made-up-upload": ("blobs/uploads/made-up", {"GET", "HEAD", "PUT", "PATCH", "DELETE"}),
    "end-of-an-upload": (f"?digest={images.sha256(b'{}')}", {"GET", "HEAD", "PUT", "PATCH", "DELETE"}),
}
"""Each resource of a repository, and its methods; those without ``/`` belong to an upload that a developer began."""


@pytest.fixture(scope="module")
def upload(gateway: GatewayProcess) -> str:
    """Push the image that exists and begin an upload beside it; its path within the repository."""
    carol = gateway.wire(CAROL)
    carol.push_image(EXISTING, "1", IMAGE)
    location = carol.append(carol.start_upload(EXISTING), b"half of").expect(202).location
    return location.partition(f"/v2/{EXISTING}/")[2]


def told(answer: Answer, name: str) -> tuple[int, list[tuple[str, str]], bytes]:
    """What a caller hears, in its order, but for the name they asked for, the date and the request id."""
    headers = [
        (key, value.replace(name, "NAME"))
        for key, value in answer.headers.items()
        if key not in {"Date", "X-Request-Id"}
    ]
    return answer.status, headers, answer.body.replace(name.encode(), b"NAME")


def same(heard: Mapping[str, object]) -> None:
    """Hold all answers to the first."""
    first = next(iter(heard.values()))
    assert heard == dict.fromkeys(heard, first)


def test_names_are_equally_long() -> None:
    """The names differ in nothing that an answer's length could depend on."""
    assert len({len(name) for name in NAMES.values()}) == 1


@pytest.mark.parametrize("resource", LEGAL)
@pytest.mark.parametrize("way", WAYS)
def test_one_answer(gateway: GatewayProcess, upload: str, way: str, resource: str) -> None:
    """Each method of each resource answers the same, byte for byte, whether the image is there or not."""
    comes, status = WAYS[way]
    path, methods = LEGAL[resource]
    if "/" not in path.partition("?")[0]:
        path = upload + path
    wires = {label: gateway.wire(comes(gateway, name)) for label, name in NAMES.items()}
    for method in METHODS:
        heard = {}
        for label, name in NAMES.items():
            body = b"{}" if method in {"POST", "PUT", "PATCH"} else None
            answer = wires[label].send(method, f"/v2/{name}/{path}", body, {"Content-Type": images.MANIFEST})
            if method in methods:
                assert answer.status == status, (method, label)
            else:
                assert answer.status in {404, 405}, (method, label)
            heard[label] = told(answer, name)
        same(heard)


def test_refusals_left_no_trace(gateway: GatewayProcess, upload: str) -> None:
    """After a stranger tried everything, the image, its tags and the upload are as they were."""
    for resource in LEGAL:
        test_one_answer(gateway, upload, "stranger", resource)
    carol = gateway.wire(CAROL)
    assert carol.manifest(EXISTING, "1").expect(200).body == IMAGE.manifest.content
    assert carol.get(f"/v2/{EXISTING}/tags/list").expect(200).json()["tags"] == ["1"]
    assert carol.get(f"/v2/{EXISTING}/blobs/{IMAGE.layers[0].digest}").expect(200).body == IMAGE.layers[0].content
    assert carol.get(f"/v2/{EXISTING}/{upload}").expect(204).header("Range") == "0-6"


ASKERS: dict[str, tuple[Account | None, int]] = {
    "nobody": (None, 403),
    "stranger": (MALLORY, 200),
    "owners-token-without-a-registry-scope": (ALICE_NO_REGISTRY, 403),
    "deploy-token-of-another-project": (DEPLOY_ELSEWHERE, 200),
    "job-of-another-project": (JOB_ELSEWHERE, 200),
    "wrong-password": (Account("alice", "wrong"), 401),
    "expired-personal-token": (ALICE_EXPIRED, 401),
    "finished-job": (JOB_FINISHED, 401),
}

QUESTIONS: dict[str, Callable[[str], list[str]]] = {
    "pull": lambda name: [scope(name, "pull")],
    "push": lambda name: [scope(name, "pull,push")],
    "delete": lambda name: [scope(name, "delete")],
    "everything": lambda name: [scope(name)],
    "unknown-actions": lambda name: [scope(name, "pull,levitate")],
    "no-actions": lambda name: [scope(name, "")],
    "capitals": lambda name: [scope(name.upper())],
    "below": lambda name: [scope(f"{name}/below", "pull,push")],
    "repeated": lambda name: [scope(name, "pull"), scope(name, "push")],
    "joined": lambda name: [f"{scope(name, 'pull')} {scope(name, 'push')}"],
}

SOMETHING_PUBLIC = scope(PUBLIC, "pull")


def said(answer: Answer, name: str) -> object:
    """What the token endpoint says, its token taken apart, but for the name, the times and the ids."""
    status, headers, body = told(answer, name)
    if status != 200:
        return status, headers, body
    document = answer.json()
    token = document.pop("token")
    assert document.pop("access_token") == token
    assert document.pop("issued_at")
    return status, headers, document, read(token, name)


def read(token: str, name: str) -> object:
    """Take a token apart, and the one inside it."""
    header = jwt.get_unverified_header(token)
    claims: dict[str, Any] = jwt.decode(token, options={"verify_signature": False})
    changing = {"iat", "nbf", "exp", "jti"}
    kept = {claim: value for claim, value in claims.items() if claim not in changing}
    if isinstance(kept.get("user"), str):
        kept["user"] = read(kept["user"], name)
    return header, repr(kept).replace(name, "NAME")


@pytest.mark.parametrize("beside", [False, True], ids=["alone", "beside-a-public-one"])
@pytest.mark.parametrize("question", QUESTIONS)
@pytest.mark.parametrize("asker", ASKERS)
def test_one_token(gateway: GatewayProcess, upload: str, asker: str, question: str, *, beside: bool) -> None:
    """The token endpoint answers the same, and its token says the same, whether the image is there or not."""
    assert upload
    account, status = ASKERS[asker]
    heard = {}
    for label, name in NAMES.items():
        scopes = [*([SOMETHING_PUBLIC] if beside else []), *QUESTIONS[question](name)]
        query = urlencode([("service", SERVICE), *(("scope", each) for each in scopes)])
        answer = gateway.wire(account).get(f"/jwt/auth?{query}")
        answer.expect(200 if beside and asker == "nobody" else status)
        heard[label] = said(answer, name)
        if answer.status == 200:
            access = jwt.decode(answer.json()["token"], options={"verify_signature": False})["access"]
            assert [entry["name"] for entry in access] == ([PUBLIC] if beside else [])
    same(heard)
