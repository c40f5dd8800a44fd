"""What a repository of ours is called upstream, and which blobs a client is sent away for."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from gateway.oci import Digest, RepositoryName, Tag
from gateway.plugins import ErrorCode, RegistryError, TagPage, TagQuery
from gateway.plugins.testing import NAME, OTHER_NAME, content, image_manifest, push_image, read_blob, upload_blob
from plugins.backend_distribution.names import Names, fits
from tests.support.distribution import distribution

if TYPE_CHECKING:
    from pathlib import Path

    from tests.backend_distribution.conftest import Make

PATHS = {"acme/platform": "teams/platform", "acme": "company", "acme/platform/app": "app", "a": "b", "b": "a"}
MOVED = [
    ("acme/platform", "teams/platform"),
    ("acme/platform/x/y", "teams/platform/x/y"),
    ("acme/platformer", "company/platformer"),
    ("acme/platform/app", "app"),
    ("acme/platform/app/x", "app/x"),
    ("acme/platform/apple", "teams/platform/apple"),
    ("acme", "company"),
    ("acmes/x", "acmes/x"),
    ("other/acme/platform", "other/acme/platform"),
    ("a/x", "b/x"),
    ("b/x", "a/x"),
]


@pytest.mark.parametrize(("ours", "theirs"), MOVED)
@pytest.mark.parametrize("prefix", ["", "harbor-project", "two/parts"])
def test_the_longest_path_counts(ours: str, theirs: str, prefix: str) -> None:
    """Whole components are replaced, the longest that there are, and the prefix goes before all; and back again."""
    names = Names(prefix, PATHS)
    full = f"{prefix}/{theirs}" if prefix else theirs
    assert names.upstream(RepositoryName(ours)) == full
    assert names.here(full) == ours


@pytest.mark.parametrize(
    ("paths", "name"),
    [
        ({"acme/platform": "teams/platform"}, "teams/platform"),
        ({"acme/platform": "teams/platform"}, "teams/platform/app"),
        ({"a": "x", "b": "x/y"}, "a/y/z"),
        ({"a": "x", "a/b": "z"}, "x/b"),
    ],
)
def test_no_two_names_are_one_upstream(paths: dict[str, str], name: str) -> None:
    """Whoever may use a name that another path leads to does not reach that path's images."""
    with pytest.raises(RegistryError) as caught:
        Names("", paths).upstream(RepositoryName(name))
    assert caught.value.code is ErrorCode.NAME_UNKNOWN
    assert "paths" in (caught.value.why or "")


def test_a_name_that_becomes_too_long() -> None:
    """A name that is legal here and not there is refused in words."""
    name = RepositoryName("a" * 250)
    with pytest.raises(RegistryError, match="255 characters; this one is 257") as caught:
        Names("prefix", {}).upstream(name)
    assert caught.value.status == 400


FITS = [
    ("acme/**", "acme", True),
    ("acme/**", "acme/a/b", True),
    ("acme/**", "acmes/a", False),
    ("acme/*", "acme/a", True),
    ("acme/*", "acme/a/b", False),
    ("acme/*", "acme", False),
    ("**", "a/b", True),
    ("**/app", "a/b/app", True),
    ("**/app", "app", True),
    ("**/app", "a/app/b", False),
    ("a/**/z", "a/b/c/z", True),
    ("a/**/z", "a/z", True),
    ("acme", "acme", True),
    ("acme", "acme/a", False),
]


@pytest.mark.parametrize(("pattern", "name", "expected"), FITS)
def test_patterns(pattern: str, name: str, expected: bool) -> None:  # noqa: FBT001 - a parameter
    """Patterns of `redirects` are those of `repositories`: * is one component, ** any number."""
    assert fits(pattern, name) is expected


async def test_everything_happens_under_the_other_name(workers: Make, tmp_path: Path) -> None:
    """Blobs, mounts, manifests, tags and deletions all go where the prefix and the paths say."""
    with distribution(tmp_path) as registry:
        ours = await workers(url=registry.url, path_prefix="project", paths={"acme": "teams/a"})
        plain = await workers(url=registry.url)
        app, other = RepositoryName("project/teams/a/app"), RepositoryName("project/teams/a/other")
        put = await push_image(ours, lambda blob: upload_blob(ours, blob), "one", "a", "b")
        digest = await upload_blob(ours, content(1000))
        assert await ours.mount_blob(NAME, OTHER_NAME, digest)
        for name in (app, other):
            assert await read_blob(plain, digest, name=name) == content(1000)
        assert await plain.tags(app, TagQuery()) == TagPage((Tag("a"), Tag("b")))
        assert await plain.tags(NAME, TagQuery()) is None
        assert await ours.delete_manifest(NAME, Tag("a"))
        found = await plain.manifest(app, Tag("b"))
        assert found is not None
        assert found.digest == put.digest == image_manifest("one").digest
        await ours.delete_blob(OTHER_NAME, digest)
        with pytest.raises(LookupError):
            await read_blob(plain, Digest.of(content(1000)), name=other)
