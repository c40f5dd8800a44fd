"""Pages and their headers, by page and by name; and what is asked for beside GitLab's own (semantics 6)."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl, urlsplit

import pytest

from tests.rest.place import Place, url
from tests.support.images import image, index
from tests.support.people import ALICE_API, CAROL, PRIVATE

if TYPE_CHECKING:
    from email.message import Message

NAMES = [f"t{number:02}" for number in range(12)]
LISTED = f"{PRIVATE}/listed"
MIXED = f"{PRIVATE}/mixed"


@pytest.fixture(scope="module")
def tags(place: Place) -> str:
    """Push twelve tags, and give the path of their list."""
    place.push(LISTED, image(b"listed"), *NAMES)
    return url("projects", PRIVATE, "registry", "repositories", place.number(PRIVATE, LISTED), "tags")


def links(headers: Message[str, str]) -> dict[str, str]:
    """Read a Link header."""
    return {rel: target for target, rel in re.findall(r'<([^>]*)>; rel="(\w+)"', headers["Link"] or "")}


def numbers(headers: Message[str, str]) -> tuple[str | None, ...]:
    """Total, pages, page, per page, next and previous."""
    return tuple(
        headers[f"X-{name}"] for name in ("Total", "Total-Pages", "Page", "Per-Page", "Next-Page", "Prev-Page")
    )


PAGES = [
    pytest.param("", NAMES, ("12", "1", "1", "20", "", ""), id="default"),
    pytest.param("per_page=5", NAMES[:5], ("12", "3", "1", "5", "2", ""), id="first"),
    pytest.param("per_page=5&page=2", NAMES[5:10], ("12", "3", "2", "5", "3", "1"), id="middle"),
    pytest.param("per_page=5&page=3", NAMES[10:], ("12", "3", "3", "5", "", "2"), id="last"),
    pytest.param("per_page=5&page=9", [], ("12", "3", "9", "5", "", ""), id="beyond"),
    pytest.param("per_page=5&page=2147483647", [], ("12", "3", "2147483647", "5", "", ""), id="far beyond"),
    pytest.param("per_page=1000", NAMES, ("12", "1", "1", "100", "", ""), id="more than a hundred is a hundred"),
    pytest.param("search=zzz", [], ("0", "1", "1", "20", "", ""), id="nothing is one page"),
]


@pytest.mark.parametrize(("query", "names", "expected"), PAGES)
def test_a_page_says_where_it_stands(
    place: Place, tags: str, query: str, names: list[str], expected: tuple[str, ...]
) -> None:
    """In GitLab's headers; where there is no next or previous page theirs is empty."""
    answer = place.send("GET", f"{tags}?{query}").expect(200)
    assert [tag["name"] for tag in answer.json()] == names
    assert numbers(answer.headers) == expected


def test_links_lead_through_the_pages_with_all_parameters(place: Place, tags: str) -> None:
    """On the URL that the client used, percent-encoding and all, and without its token."""
    answer = place.send("GET", f"{tags}?search=t&per_page=5&page=2&private_token={ALICE_API.password}", None).expect(
        200
    )
    found = links(answer.headers)
    assert list(found) == ["prev", "next", "first", "last"]
    for relation, page in {"prev": "1", "next": "3", "first": "1", "last": "3"}.items():
        parts = urlsplit(found[relation])
        assert f"{parts.scheme}://{parts.netloc}{parts.path}" == f"{place.gateway.base_url}{tags}"
        assert dict(parse_qsl(parts.query)) == {"search": "t", "per_page": "5", "page": page}


def test_a_list_of_repositories_is_paged_alike(place: Place, tags: str) -> None:
    """By their numbers, without a question about tags."""
    del tags
    answer = place.get("projects", PRIVATE, "registry", "repositories", per_page=1).expect(200)
    assert len(answer.json()) == 1
    assert "tags" not in answer.json()[0]
    assert answer.headers["X-Per-Page"] == "1"


def test_head_is_get_without_its_body(place: Place, tags: str) -> None:
    """With the same headers."""
    answer = place.send("HEAD", f"{tags}?per_page=5").expect(200)
    assert (numbers(answer.headers)[:2], answer.body) == (("12", "3"), b"")


# -- by name ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("sort", "expected"), [("asc", NAMES), ("desc", NAMES[::-1])])
def test_keyset_pages_are_followed_by_their_links(place: Place, tags: str, sort: str, expected: list[str]) -> None:
    """Up or down, each tag once, and no totals; the last page has no link."""
    target: str | None = f"{tags}?pagination=keyset&per_page=5&sort={sort}"
    found: list[str] = []
    pages = 0
    while target is not None:
        answer = place.send("GET", target).expect(200)
        assert answer.headers["X-Total"] is None
        found += [tag["name"] for tag in answer.json()]
        following = links(answer.headers)
        assert set(following) <= {"next"}
        target = following.get("next")
        pages += 1
    assert (found, pages) == (expected, 3)


@pytest.mark.parametrize(
    ("last", "sort", "first"),
    [("t03", "asc", "t04"), ("t03", "desc", "t02"), ("s", "asc", "t00"), ("t00~", "asc", "t01")],
)
def test_keyset_goes_on_behind_any_name(place: Place, tags: str, last: str, sort: str, first: str) -> None:
    """Also behind one that is not there."""
    answer = place.send("GET", f"{tags}?pagination=keyset&per_page=2&last={last}&sort={sort}").expect(200)
    assert answer.json()[0]["name"] == first


# -- ours -------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def mixed(place: Place) -> str:
    """Push images of several sizes by two people, and an index; give the path of the list."""
    place.push(MIXED, image(b"m" * 3000), "middle")
    place.push(MIXED, image(b"small"), "Small")
    place.push(MIXED, index("several"), "several")
    wire = place.gateway.wire(CAROL)
    wire.push_image(MIXED, "arm", image(bytes(range(256)) * 100, architecture="arm64"))
    return url("projects", PRIVATE, "registry", "repositories", place.number(PRIVATE, MIXED), "tags")


OURS = [
    pytest.param("search=SMALL", ["Small"], id="search in any case"),
    pytest.param("search=m", ["Small", "arm", "middle"], id="search for a part"),
    pytest.param("sort=name", ["Small", "arm", "middle", "several"], id="by name"),
    pytest.param("sort=-name", ["several", "middle", "arm", "Small"], id="by name, downwards"),
    pytest.param("sort=desc", ["several", "middle", "arm", "Small"], id="GitLab's word for it"),
    pytest.param("sort=pushed", ["middle", "Small", "several", "arm"], id="by push"),
    pytest.param("sort=-pushed&per_page=1", ["arm"], id="by push, downwards"),
    pytest.param("sort=size", ["several", "Small", "middle", "arm"], id="by size, the unknown first"),
    pytest.param("sort=-size&per_page=2&page=2", ["Small", "several"], id="by size, the second page"),
    pytest.param("platform=linux/arm64", ["arm", "several"], id="for a platform"),
    pytest.param("platform=linux/s390x", [], id="for another platform"),
    pytest.param("pushed_by=carol", ["arm"], id="by a person"),
    pytest.param("pushed_by=carol&search=small", [], id="all at once"),
]


@pytest.mark.parametrize(("query", "names"), OURS)
def test_tags_are_searched_and_sorted(place: Place, mixed: str, query: str, names: list[str]) -> None:
    """Extras that GitLab lacks are parameters."""
    assert [tag["name"] for tag in place.send("GET", f"{mixed}?{query}").expect(200).json()] == names


def test_details_are_there_on_request(place: Place, mixed: str) -> None:
    """Without it a tag has GitLab's three fields and no more."""
    plain: list[dict[str, Any]] = place.send("GET", f"{mixed}?search=arm").expect(200).json()
    assert plain == [
        {"name": "arm", "path": f"{MIXED}:arm", "location": f"{place.gateway.host}/{MIXED}:arm"},
    ]
    (tag,) = place.send("GET", f"{mixed}?search=arm&with_details=True").expect(200).json()
    content = image(bytes(range(256)) * 100, architecture="arm64")
    assert plain[0].items() <= tag.items()
    assert tag["digest"] == content.manifest.digest
    assert tag["total_size"] == len(content.layers[0].content)
    assert (tag["platforms"], tag["pushed_by"]) == (["linux/arm64"], "carol")
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", tag["pushed_at"])
