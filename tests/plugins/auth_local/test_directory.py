"""What can be wrong with a directory, and what happens when it changes."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest
import yaml

from gateway.plugins import ConfigError
from tests.plugins.auth_local.conftest import Local, content, deploy, pat, write

if TYPE_CHECKING:
    from pathlib import Path

ALICE = {"username": "alice"}
PROJECT = {"path": "acme/app"}


def one(**sections: Any) -> dict[str, Any]:
    """Write down alice, a project, and what a test adds or replaces."""
    return {"users": [ALICE], "groups": [{"path": "acme"}], "projects": [PROJECT], **sections}


def mistaken(**more: object) -> dict[str, Any]:
    """Write down a token with a mistake in it."""
    return one(tokens=[{**pat("s3cret", ["api"]), **more}])


@pytest.mark.parametrize(
    ("directory", "expected"),
    [
        (one(users=[{**ALICE, "pasword": "s3cret"}]), "users.0.pasword: unknown key"),
        (one(user=[]), "user: unknown key"),
        (one(users=[ALICE, {"username": "Alice"}]), "users.1.username: the same as users.0.username"),
        (one(users=[{**ALICE, "password": "s3cret", "password_hash": "s3cret"}]), "users.0.password_hash: expected an"),
        (one(users=[{**ALICE, "state": "asleep"}]), "users.0.state: Input should be 'active'"),
        (one(users=[{"username": "a:b"}]), "users.0.username: String should match"),
        (one(groups=[{"path": "acme"}, {"path": "Acme"}]), "groups.1.path: the same as groups.0.path"),
        (one(groups=[{"path": "acme", "members": {"x": "owner"}}]), "groups.0.members.x: no such user 'x'"),
        (one(groups=[{"path": "acme", "members": {"alice": "boss"}}]), "groups.0.members.alice: Input should be"),
        (one(groups=[{"path": "acme/app/sub"}]), "groups.0.path: 'acme/app/sub' lies below the project 'acme/app'"),
        (one(projects=[PROJECT, PROJECT]), "projects.1.path: the same as projects.0.path"),
        (one(groups=[{"path": "Acme/App"}]), "projects.0.path: 'acme/app' is the path of a group too"),
        (one(groups=[{"path": "a", "id": 3}, {"path": "b", "id": 3}]), "groups.1.id: the same as groups.0.id"),
        (one(users=[{**ALICE, "id": 3}, {"username": "b", "id": 3}]), "users.1.id: the same as users.0.id"),
        (one(users=[{**ALICE, "id": 0}]), "users.0.id: Input should be greater than or equal to 1"),
        (one(users=[{**ALICE, "name": ""}]), "users.0.name: String should have at least 1 character"),
        (one(projects=[{"path": "app"}]), "projects.0.path: a project lies in a group"),
        (one(projects=[{"path": "acme//app"}]), "projects.0.path: expected names of letters"),
        (one(projects=[{**PROJECT, "visibility": "secret"}]), "projects.0.visibility: Input should be"),
        (one(projects=[{**PROJECT, "members": {"x": "guest"}}]), "projects.0.members.x: no such user 'x'"),
        (
            one(projects=[{**PROJECT, "job_token_allowlist": ["a/b"]}]),
            "projects.0.job_token_allowlist.0: no such project or group 'a/b'",
        ),
        (mistaken(user="x"), "tokens.0.user: no such user 'x'"),
        (mistaken(kind="s3cret"), "tokens.0.kind: expected one of personal_access_token, "),
        (mistaken(kind=None), "tokens.0.kind: expected one of personal_access_token, "),
        (mistaken(project="acme/app"), "tokens.0.project: unknown key"),
        (mistaken(expires_at="2030-02-30"), "tokens.0.expires_at: expected a date such as 2030-12-31"),
        (mistaken(expires_at=20300101), "tokens.0.expires_at: expected a date such as 2030-12-31"),
        (mistaken(token_sha256="0" * 64), "tokens.0: a token needs either `token` or `token_sha256`"),
        (mistaken(token=""), "tokens.0.token: Value should have at least 1 item"),
        (one(tokens=[pat("s3cret", []), pat("s3cret", ["api"])]), "tokens.1.token: the same as tokens.0.token"),
        (one(tokens=[deploy("d", "s3cret", project="acme/x")]), "tokens.0.project: no such project 'acme/x'"),
        (one(tokens=[deploy("d", "s3cret", group="x")]), "tokens.0.group: no such group 'x'"),
        (one(tokens=[deploy("d", "s3cret")]), "tokens.0: a deploy token needs either `project` or `group`"),
        (one(tokens=[deploy("d", "s3cret", group="acme", scopes=[])]), "tokens.0.scopes: Tuple should have at least 1"),
        (
            one(users=[{"username": "a", "email": "x@y.z"}, {"username": "b", "email": "X@y.z"}]),
            "users.1.email: the same as users.0.email",
        ),
        (one(users=[{**ALICE, "email": "nowhere"}]), "users.0.email: String should match"),
        ("", "expected a mapping"),
        ("- users", "expected a mapping"),
    ],
)
def test_one_line_each(tmp_path: Path, directory: object, expected: str) -> None:
    """A mistake is one line with file and key, and quotes no secret."""
    path = tmp_path / "directory.yaml"
    write(path, directory)
    found = list(Local(path).plugin.gateway_check())
    assert len(found) == 1
    assert found[0].startswith(f"{path}: {expected}")
    assert "s3cret" not in found[0]


def test_all_mistakes_at_once(tmp_path: Path) -> None:
    """Every mistake has its line."""
    path = tmp_path / "directory.yaml"
    write(path, one(tokens=[{**pat("a", ["api"]), "user": "x"}, {**pat("b", ["api"]), "user": "y"}]))
    assert list(Local(path).plugin.gateway_check()) == [
        f"{path}: tokens.0.user: no such user 'x'",
        f"{path}: tokens.1.user: no such user 'y'",
    ]


def test_good_directory(tmp_path: Path) -> None:
    """All kinds of tokens are read."""
    write(tmp_path / "directory.yaml", content())
    assert list(Local(tmp_path / "directory.yaml").plugin.gateway_check()) == []


@pytest.mark.parametrize("directory", [None, "users: [", one(user=[])])
async def test_no_start_without_a_good_directory(tmp_path: Path, directory: object) -> None:
    """A missing or broken directory stops the start."""
    local = Local(tmp_path / "directory.yaml")
    if directory is not None:
        write(local.path, directory)
    with pytest.raises(ConfigError, match=r"directory\.yaml"):
        async with local.running():
            pass


async def test_token_by_hash(local: Local) -> None:
    """A token may be written down as its SHA-256."""
    changed = content()
    # printf abc | sha256sum
    digest = "BA7816BF8F01CFEA414140DE5DAE2223B00361A396177A9CB410FF61F20015AD"
    changed["tokens"][0] = {**pat("", ["api"]), "token_sha256": digest}
    del changed["tokens"][0]["token"]
    await local.edit(changed)
    assert await local.login("", "abc") is not None


async def test_change_is_seen(local: Local) -> None:
    """The next question is answered from the changed file."""
    await local.edit(one(tokens=[pat("fresh", ["api"])]))
    assert await local.login("", "fresh") is not None
    assert await local.login("", "pat-api") is None


@pytest.mark.parametrize("broken", ["users: [", "", yaml.safe_dump(mistaken(user="x")), None])
async def test_broken_edit(local: Local, broken: str | None) -> None:
    """A broken edit keeps the old content, says so once, and is over when the file is mended."""
    if broken is None:
        local.path.unlink()
    else:
        await local.edit(broken)
    for _ in range(3):
        assert await local.login("", "pat-api") is not None
    health = await local.plugin.gateway_health()
    assert not health.ok
    assert str(local.path) in health.message
    assert len(local.log.errors) == 1
    await local.edit(content())
    assert (await local.plugin.gateway_health()).ok
    assert len(local.log.errors) == 1


async def test_a_change_is_seen_by_everybody_who_asks_after_it(local: Local) -> None:
    """Of many questions in one turn of the event loop, the first that finds the file changed keeps none from it."""
    await local.edit(one(tokens=[pat("fresh", ["api"])]))
    found = await asyncio.gather(*(local.login("", "fresh") for _ in range(5)))
    assert all(identity is not None for identity in found)
