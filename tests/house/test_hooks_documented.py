"""What is promised to people who read before they write."""

from __future__ import annotations

from pathlib import Path

import pytest

from gateway.plugins import GatewaySpecs

ROOT = Path(__file__).parents[2]
HOOKS = sorted(name for name in vars(GatewaySpecs) if name.startswith("gateway_"))


@pytest.mark.parametrize("hook", HOOKS)
def test_a_hook_stands_in_the_guide(hook: str) -> None:
    """Every question that a plugin can answer is named in docs/plugins.md."""
    assert f"`{hook}" in (ROOT / "docs" / "plugins.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("hook", HOOKS)
def test_a_hook_says_what_it_asks(hook: str) -> None:
    """Every question has its sentence where it is specified."""
    assert (getattr(GatewaySpecs, hook).__doc__ or "").strip()
