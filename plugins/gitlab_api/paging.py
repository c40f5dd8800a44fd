"""Pages as GitLab tells of them: its headers, and links under the URL that the client used (semantics 6)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final
from urllib.parse import urlencode

from gateway.plugins import Asking
from plugins.gitlab_api import asked
from plugins.gitlab_api.parameters import ListTags, Paged

_SECRET: Final = frozenset({"private_token", "job_token"})
"""Parameters that no answer repeats."""


def headers(asking: Asking, paged: Paged, total: int) -> Mapping[str, str]:
    """The headers of a page of *total* entries: one page there always is, and beyond the last there is no next."""
    pages = max(1, -(-total // paged.limit))
    page = paged.page
    following = str(page + 1) if page < pages else ""
    before = str(page - 1) if 1 < page <= pages else ""
    linked = {"prev": before, "next": following, "first": "1", "last": str(pages)}
    size = str(paged.limit)
    return {
        "X-Total": str(total),
        "X-Total-Pages": str(pages),
        "X-Page": str(page),
        "X-Per-Page": size,
        "X-Next-Page": following,
        "X-Prev-Page": before,
        "Link": ", ".join(
            _link(asking, relation, {"page": number, "per_page": size}) for relation, number in linked.items() if number
        ),
    }


def keyset(asking: Asking, paged: ListTags, last: str | None) -> Mapping[str, str]:
    """The header of a page that is counted by name: where it goes on behind *last*, if it does."""
    if last is None:
        return {}
    return {"Link": _link(asking, "next", {"per_page": str(paged.limit), "last": last})}


def _link(asking: Asking, relation: str, changed: Mapping[str, str]) -> str:
    kept = [(name, value) for name, value in asked.query(asking.request) if name not in _SECRET and name not in changed]
    path = asking.request.raw_path.partition("?")[0]
    return f'<{asking.base}{path}?{urlencode([*kept, *changed.items()])}>; rel="{relation}"'
