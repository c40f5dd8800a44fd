"""The values of the specification hold only what it allows."""

from __future__ import annotations

import re
from hashlib import sha256, sha512

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.oci import (
    ByteRange,
    Descriptor,
    Digest,
    MediaType,
    RepositoryName,
    Scope,
    Tag,
    UnsatisfiableRangeError,
    parse_content_range,
    parse_range,
)

HEX = "0123456789abcdef" * 4

BAD_DIGESTS = {
    "empty": "",
    "no-algorithm": f":{HEX}",
    "no-colon": f"sha256{HEX}",
    "no-hash": "sha256:",
    "short": f"sha256:{HEX[:-1]}",
    "long": f"sha256:{HEX}0",
    "upper-case": f"sha256:{HEX.upper()}",
    "not-hexadecimal": f"sha256:{'g' * 64}",
    "sha512-of-sha256-length": f"sha512:{HEX}",
    "md5": f"md5:{HEX[:32]}",
    "sha384": f"sha384:{'0' * 96}",
    "upper-case-algorithm": f"SHA256:{HEX}",
    "two": f"sha256:{HEX}:{HEX}",
    "line-feed": f"sha256:{HEX}\n",
    "path": "sha256:../../../../etc/passwd",
    "other-digits": "sha256:" + "\u0660" * 64,
}
GOOD_NAMES = {
    "one": "a",
    "digits": "0",
    "components": "acme/app/sub",
    "dot": "a.b",
    "underscore": "a_b",
    "two-underscores": "a__b",
    "dashes": "a---b",
    "longest": "a" * 255,
}
BAD_NAMES = {
    "empty": "",
    "slash-first": "/a",
    "slash-last": "a/",
    "two-slashes": "a//b",
    "upper-case": "Acme",
    "dash-first": "-a",
    "dash-last": "a-",
    "two-dots": "a..b",
    "three-underscores": "a___b",
    "mixed": "a._b",
    "traversal": "a/../b",
    "space": "a b",
    "line-feed": "a\n",
    "not-ascii": "ä",
    "colon": "a:b",
    "long": "a" * 256,
}
GOOD_TAGS = {"word": "latest", "version": "1.2.3-rc_1", "underscore": "_x", "upper-case": "V1", "longest": "a" * 128}
BAD_TAGS = {
    "empty": "",
    "dot-first": ".a",
    "dash-first": "-a",
    "slash": "a/b",
    "plus": "1.0+build",
    "colon": "a:b",
    "line-feed": "a\n",
    "not-ascii": "ä",
    "long": "a" * 129,
}
RANGES = {
    "all": ("bytes=0-9", ByteRange(0, 10)),
    "first": ("bytes=0-0", ByteRange(0, 1)),
    "middle": ("bytes=3-5", ByteRange(3, 6)),
    "open": ("bytes=4-", ByteRange(4, 10)),
    "suffix": ("bytes=-3", ByteRange(7, 10)),
    "suffix-wider-than-all": ("bytes=-99", ByteRange(0, 10)),
    "beyond-the-end": ("bytes=8-99", ByteRange(8, 10)),
    "spaces": (" bytes = 1 - 2 ", ByteRange(1, 3)),
    "upper-case": ("BYTES=1-2", ByteRange(1, 3)),
    "neither": ("bytes=-", None),
    "several": ("bytes=0-1,3-4", None),
    "other-unit": ("items=0-1", None),
    "words": ("bytes=a-b", None),
    "empty": ("", None),
    "negative": ("bytes=--1", None),
    "endless": (f"bytes={'9' * 100}-", None),
    "other-digits": ("bytes=\u0663-\u0665", None),
}
UNSATISFIABLE = {
    "behind-the-end": ("bytes=10-", 10),
    "backwards": ("bytes=5-4", 10),
    "no-suffix": ("bytes=-0", 10),
    "of-nothing": ("bytes=0-", 0),
    "suffix-of-nothing": ("bytes=-1", 0),
}
BAD_CONTENT_RANGES = {
    "empty": "",
    "unit": "bytes 0-9",
    "equals": "bytes=0-9",
    "total": "0-9/10",
    "backwards": "9-0",
    "open": "0-",
    "suffix": "-9",
    "negative": "-1-9",
    "space": "0 - 9",
    "line-feed": "0-9\n",
    "words": "a-b",
    "huge": f"0-{'9' * 20}",
    "other-digits": "\u0663-\u0665",
}
SCOPES = {
    "usual": ("repository:acme/app:pull,push", Scope("repository", "acme/app", ("pull", "push"))),
    "repeated": ("repository:a:push,push", Scope("repository", "a", ("push", "push"))),
    "unknown-action": ("repository:a:fly", Scope("repository", "a", ("fly",))),
    "no-action": ("repository:a:", Scope("repository", "a", ())),
    "empty-actions": ("repository:a:,pull,,", Scope("repository", "a", ("pull",))),
    "star": ("registry:catalog:*", Scope("registry", "catalog", ("*",))),
    "port-in-the-name": ("repository:host:5000:pull", Scope("repository", "host", ("5000:pull",))),
    "two-parts": ("repository:a", None),
    "one-part": ("repository", None),
    "empty": ("", None),
}


@pytest.mark.parametrize("text", BAD_DIGESTS.values(), ids=BAD_DIGESTS)
def test_a_wrong_digest_is_refused(text: str) -> None:
    """A digest is of a known algorithm and has exactly its lower-case hexadecimal characters."""
    with pytest.raises(ValueError, match="digest"):
        Digest.parse(text)


@given(content=st.binary())
def test_a_digest_is_that_of_the_content(content: bytes) -> None:
    """What is computed here is what everybody else computes, and reads back."""
    short, long = Digest.of(content), Digest.of(content, "sha512")
    assert (short.algorithm, short.encoded) == ("sha256", sha256(content).hexdigest())
    assert (long.algorithm, long.encoded) == ("sha512", sha512(content).hexdigest())
    assert Digest.parse(short) == short
    assert Digest.parse(long) == long


@pytest.mark.parametrize("text", GOOD_NAMES.values(), ids=GOOD_NAMES)
def test_a_legal_name_is_taken(text: str) -> None:
    """Every form of the specification's pattern is a name."""
    assert RepositoryName.parse(text) == text


@pytest.mark.parametrize("text", BAD_NAMES.values(), ids=BAD_NAMES)
def test_a_wrong_name_is_refused(text: str) -> None:
    """Nothing but the specification's pattern is a name."""
    with pytest.raises(
        ValueError, match=r"^(component \d+ \(.*\) of the repository name |a repository name has at most)"
    ):
        RepositoryName.parse(text)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("a/" + "b" * 254, "at most 255 characters, this one has 256"),
        ("acme//app", "component 2 ('') of the repository name is empty"),
        ("acme/", "component 2 ('') of the repository name is empty"),
        ("Acme/app", "component 1 ('Acme') of the repository name has a capital letter: write 'acme'"),
        ("acme/-app", "component 2 ('-app') of the repository name begins with '-'"),
        ("_acme/app", "component 1 ('_acme') of the repository name begins with '_'"),
        ("acme/app.", "component 2 ('app.') of the repository name ends with '.'"),
        ("acme/a..b", "component 2 ('a..b') of the repository name has '..' between two words"),
        ("acme/a___b", "component 2 ('a___b') of the repository name has '___'"),
        ("acme/a-.b", "component 2 ('a-.b') of the repository name has '-.'"),
        ("acme/x.y/a._b", "component 3 ('a._b') of the repository name has '._'"),
        ("acme/a b", "component 2 ('a b') of the repository name has a character other"),
        ("acme/app\n", "of the repository name has a character other"),
        ("acme/\u00e9", "component 2 ('\u00e9') of the repository name has a character other"),
    ],
)
def test_which_component_of_a_name_breaks_which_rule(name: str, expected: str) -> None:
    """What is wrong with a name is said of the component that is wrong."""
    with pytest.raises(ValueError, match=re.escape(expected)):
        RepositoryName.parse(name)


@pytest.mark.parametrize("name", ["_acme/app", "acme/app-", "acme/app_", ".acme/app"])
def test_a_path_of_old_gitlab_has_to_be_renamed(name: str) -> None:
    """A path with a leading or trailing separator, which GitLab once allowed, comes with the hint to rename it."""
    with pytest.raises(ValueError, match="until it is renamed"):
        RepositoryName.parse(name)


@pytest.mark.parametrize("text", GOOD_TAGS.values(), ids=GOOD_TAGS)
def test_a_legal_tag_is_taken(text: str) -> None:
    """Every form of the specification's pattern is a tag."""
    assert Tag.parse(text) == text


@pytest.mark.parametrize("text", BAD_TAGS.values(), ids=BAD_TAGS)
def test_a_wrong_tag_is_refused(text: str) -> None:
    """Nothing but the specification's pattern is a tag."""
    with pytest.raises(ValueError, match="a tag has"):
        Tag.parse(text)


@pytest.mark.parametrize(("header", "wanted"), RANGES.values(), ids=RANGES)
def test_a_range_is_read_or_ignored(header: str, wanted: ByteRange | None) -> None:
    """Of ten bytes a single range is cut to what exists, and any other header asks for all of them."""
    assert parse_range(header, 10) == wanted


@pytest.mark.parametrize(("header", "size"), UNSATISFIABLE.values(), ids=UNSATISFIABLE)
def test_a_range_of_nothing_is_refused(header: str, size: int) -> None:
    """A range without a byte that exists is an error of its own."""
    with pytest.raises(UnsatisfiableRangeError):
        parse_range(header, size)


@given(
    header=st.one_of(
        st.text(max_size=80),
        st.from_regex(r"\s?bytes=[0-9]{0,25}-[0-9]{0,25}", fullmatch=True),
        st.tuples(st.integers(0, 120), st.integers(0, 120)).map(lambda ends: f"bytes={ends[0]}-{ends[1]}"),
    ),
    size=st.integers(0, 100),
)
def test_a_range_is_always_within_the_content(header: str, size: int) -> None:
    """No header makes anybody read outside of the content, or nothing at all."""
    try:
        found = parse_range(header, size)
    except UnsatisfiableRangeError:
        return
    if found is not None:
        assert 0 <= found.first < found.stop <= size
        assert len(found) == found.stop - found.first


@given(first=st.integers(0, 10**18), length=st.integers(1, 10**18))
def test_a_content_range_includes_both_ends(first: int, length: int) -> None:
    """The last byte that a chunk names belongs to it."""
    assert parse_content_range(f"{first}-{first + length - 1}") == ByteRange(first, first + length)


@pytest.mark.parametrize("header", BAD_CONTENT_RANGES.values(), ids=BAD_CONTENT_RANGES)
def test_a_wrong_content_range_is_refused(header: str) -> None:
    """Nothing but the specification's FIRST-LAST says where a chunk lies."""
    with pytest.raises(ValueError, match="Content-Range"):
        parse_content_range(header)


@pytest.mark.parametrize(("text", "scope"), SCOPES.values(), ids=SCOPES)
def test_a_scope_keeps_what_was_asked(text: str, scope: Scope | None) -> None:
    """Order, repetitions and unknown actions stay; fewer than three parts are no scope."""
    assert Scope.parse(text) == scope


def test_a_scope_prints_as_it_is_asked() -> None:
    """A scope reads back from its text."""
    scope = Scope("repository", "acme/app", ("push", "pull"))
    assert Scope.parse(str(scope)) == scope


def test_a_descriptor_leaves_out_what_it_lacks() -> None:
    """In an index stands only what a descriptor has."""
    digest = Digest.of(b"")
    assert Descriptor("a/b", digest, 0).as_json() == {"mediaType": "a/b", "size": 0, "digest": digest}
    full = Descriptor("a/b", digest, 0, "c/d", {"key": "value"}).as_json()
    assert (full["artifactType"], full["annotations"]) == ("c/d", {"key": "value"})


def test_media_types_know_what_they_are() -> None:
    """Indexes name manifests, and schema 1 is told apart."""
    assert {kind for kind in MediaType if kind.is_index} == {MediaType.OCI_INDEX, MediaType.DOCKER_LIST}
    assert {kind for kind in MediaType if kind.is_schema1} == {
        MediaType.DOCKER_SCHEMA1,
        MediaType.DOCKER_SCHEMA1_SIGNED,
    }
