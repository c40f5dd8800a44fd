"""What a caller may see is found at a cost that what they may not see has no part in."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import pytest

from gateway.plugins import ANONYMOUS, CredentialKind, Identity
from tests.plugins.auth_local.conftest import Local, content, write

if TYPE_CHECKING:
    from pathlib import Path

BOB = Identity("local", CredentialKind.PASSWORD, "bob", "user:bob")


async def calls(path: Path, identity: Identity, hidden: int) -> int:
    """Count the calls of functions that listing takes beside *hidden* private projects of others."""
    directory = content()
    directory["projects"] += [{"path": f"hidden/p{number}"} for number in range(hidden)]
    write(path, directory)
    local = Local(path)
    async with local.running():
        await local.plugin.gateway_projects(identity)
        count = 0

        def called(frame: Any, event: str, argument: Any) -> None:
            nonlocal count
            del frame, argument
            count += event == "call"

        sys.setprofile(called)
        try:
            found = await local.plugin.gateway_projects(identity)
        finally:
            sys.setprofile(None)
    assert found
    return count


@pytest.mark.parametrize("identity", [ANONYMOUS, BOB], ids=["nobody", "member"])
async def test_hidden_projects_cost_nothing(tmp_path: Path, identity: Identity) -> None:
    """Listing takes the same work beside ten projects that the caller may not see as beside a thousand."""
    few = await calls(tmp_path / "few.yaml", identity, 10)
    assert await calls(tmp_path / "many.yaml", identity, 1000) == few
