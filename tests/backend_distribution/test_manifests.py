"""Manifests, tags and referrers of a real registry, and of one that can do less or more."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from gateway.oci import Descriptor, Digest, Tag
from gateway.plugins import ANONYMOUS, ErrorCode, Manifest, MissingContentError, RegistryError, TagPage, TagQuery
from gateway.plugins.testing import (
    NAME,
    OCI_INDEX,
    OCI_MANIFEST,
    ManifestStoreContract,
    Upload,
    content,
    digest_of,
    image_manifest,
    push_image,
    upload_blob,
)
from tests.fakes.proxy import ForwardProxy
from tests.fakes.upstream import FaultyUpstream, Turn, answer, error
from tests.support.distribution import Distribution, distribution

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from plugins.backend_distribution.backend import DistributionBackend
    from tests.backend_distribution.conftest import Make, Mode

SUBJECT = Digest.of(b"subject")
REFERRERS = f"/v2/{NAME}/referrers/{SUBJECT}"
FALLBACK = f"/v2/{NAME}/manifests/sha256-{SUBJECT.encoded}"
TAGS = f"/v2/{NAME}/tags/list"


class TestDistribution(ManifestStoreContract):
    """The contract over Distribution 2.8, in each of its modes."""

    @pytest.fixture
    async def store(self, backend: DistributionBackend) -> DistributionBackend:
        """Take the backend of the modes."""
        return backend

    @pytest.fixture
    async def upload(self, backend: DistributionBackend) -> Upload:
        """Upload to it."""
        return lambda blob: upload_blob(backend, blob)


@pytest.fixture
def faulty() -> Iterator[FaultyUpstream]:
    """Run a registry that answers what a test tells it."""
    with FaultyUpstream() as running:
        yield running


@pytest.fixture
async def before(workers: Make, faulty: FaultyUpstream) -> DistributionBackend:
    """Stand before it."""
    return await workers(url=faulty.url)


# -- deleting a tag -----------------------------------------------------------------------------------------


async def test_an_interrupted_deletion_is_completed_by_the_next(
    workers: Make, registry: Distribution, mode: Mode
) -> None:
    """A tag that was left in the middle of its deletion is gone after a second one, and its siblings stay."""
    with ForwardProxy() as proxy:
        backend = await workers(url=registry.url, proxy=proxy.url, **mode.keys)
        put = await push_image(backend, lambda blob: upload_blob(backend, blob), "one", "a", "b")
        proxy.last = f"PUT {registry.url}/v2/{NAME}/manifests/a "
        with pytest.raises(RegistryError):
            await backend.delete_manifest(NAME, Tag("a"))
        proxy.last = None
        left = await backend.manifest(NAME, Tag("a"))
        assert left is not None
        assert left.content is not None
        assert "being deleted" in json.loads(left.content)["annotations"]["org.opencontainers.image.description"]
        assert await backend.delete_manifest(NAME, Tag("a"))
        assert await backend.tags(NAME, TagQuery()) == TagPage((Tag("b"),))
        assert await digest_of(backend, Tag("b")) == put.digest


async def test_a_registry_that_does_not_delete_loses_no_tag(workers: Make, tmp_path: Path) -> None:
    """With deletion off nothing is replaced, and the client hears which key of the registry is to be set."""
    with distribution(tmp_path, delete=False) as registry:
        backend = await workers(url=registry.url)
        put = await push_image(backend, lambda blob: upload_blob(backend, blob), "one", "a", "b")
        for reference in (Tag("a"), put.digest):
            with pytest.raises(RegistryError, match=r"storage\.delete\.enabled") as caught:
                await backend.delete_manifest(NAME, reference)
            assert (caught.value.status, caught.value.code) == (405, ErrorCode.UNSUPPORTED)
        with pytest.raises(RegistryError, match=r"storage\.delete\.enabled"):
            await backend.delete_blob(NAME, Digest.of(b"layer one"))
        for tag in "ab":
            assert await digest_of(backend, Tag(tag)) == put.digest


async def test_a_registry_that_deletes_tags_is_asked_to(before: DistributionBackend, faulty: FaultyUpstream) -> None:
    """Where one request is enough, nothing else is done."""
    path = f"/v2/{NAME}/manifests/a"
    faulty.on("HEAD", path, answer(200))
    faulty.on("DELETE", path, answer(202))
    assert await before.delete_manifest(NAME, Tag("a"))
    assert [(one.method, one.target) for one in faulty.asked[1:]] == [("HEAD", path), ("DELETE", path)]


async def test_a_registry_that_keeps_a_tag(before: DistributionBackend, faulty: FaultyUpstream) -> None:
    """Its refusal of one tag is no failure: the client hears its words."""
    path = f"/v2/{NAME}/manifests/a"
    faulty.on("HEAD", path, answer(200))
    faulty.on("DELETE", path, error(412, "PRECONDITION", "the tag is immutable"))
    with pytest.raises(RegistryError, match="the tag is immutable") as caught:
        await before.delete_manifest(NAME, Tag("a"))
    assert (caught.value.status, caught.value.code) == (412, ErrorCode.DENIED)


async def test_what_a_registry_can_not_is_asked_once(backend: DistributionBackend) -> None:
    """Deleting a second tag does not begin with what failed for the first."""
    await push_image(backend, lambda blob: upload_blob(backend, blob), "one", "a", "b", "c")
    for tag in "ab":
        assert await backend.delete_manifest(NAME, Tag(tag))
    assert await backend.tags(NAME, TagQuery()) == TagPage((Tag("c"),))


# -- tags ---------------------------------------------------------------------------------------------------


def _tags(tags: Any, link: str | None = None) -> Turn:
    headers = {"Content-Type": "application/json"} | ({"Link": link} if link else {})
    return answer(200, json.dumps({"name": NAME, "tags": tags}).encode(), headers)


async def test_pages_of_tags_are_put_together(before: DistributionBackend, faulty: FaultyUpstream) -> None:
    """The upstream's pages are followed to the end and sorted here; what is no tag is dropped."""
    link = f'<{TAGS}?last=b%2Fx&n=1000>; rel="next"'
    faulty.on("GET", TAGS, _tags(["b", "a", ".hidden", 7, "a b", "x" * 129], link), _tags(["B", "a", "c"]))
    assert await before.tags(NAME, TagQuery(3)) == TagPage((Tag("B"), Tag("a"), Tag("b")), more=True)
    assert [one.target for one in faulty.requests("GET", TAGS)] == [f"{TAGS}?n=1000", f"{TAGS}?last=b%2Fx&n=1000"]


@pytest.mark.parametrize("tags", [None, []])
async def test_no_tags(before: DistributionBackend, faulty: FaultyUpstream, tags: Any) -> None:
    """A repository whose last tag was deleted has an empty page, as Distribution says it: null."""
    faulty.on("GET", TAGS, _tags(tags))
    assert await before.tags(NAME, TagQuery()) == TagPage(())


NO_LISTS = [
    pytest.param(answer(200, b"{"), "no JSON", id="no JSON"),
    pytest.param(_tags("abc"), "no list", id="no list"),
    pytest.param(answer(200, b"[]"), "no list", id="no object"),
    pytest.param(_tags(["a"], '<http://elsewhere.example/v2/>; rel="next"'), "not its own", id="page elsewhere"),
    pytest.param(_tags(["a"], f'<{TAGS}>; rel="next"'), "without an end", id="pages without an end"),
    pytest.param(answer(429), "answers 429", id="429"),
]


@pytest.mark.parametrize(("turn", "why"), NO_LISTS)
async def test_no_list_of_tags(
    before: DistributionBackend, faulty: FaultyUpstream, turn: Turn, why: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is no list of tags is an error, and the credential follows no link to another server."""
    monkeypatch.setattr("plugins.backend_distribution.manifests._MAX_PAGES", 5)
    faulty.on("GET", TAGS, turn)
    with pytest.raises(RegistryError) as caught:
        await before.tags(NAME, TagQuery())
    assert why in (caught.value.why or "")


# -- manifests that are refused -----------------------------------------------------------------------------

PUT = image_manifest("put")
PUT_PATH = f"/v2/{NAME}/manifests/latest"


def _missing(*details: object) -> Turn:
    errors = [{"code": "MANIFEST_BLOB_UNKNOWN", "message": "blob unknown", "detail": detail} for detail in details]
    return answer(400, json.dumps({"errors": errors}).encode())


@pytest.mark.parametrize(
    "detail", [SUBJECT, {"Digest": SUBJECT}, {"digest": SUBJECT, "size": 3}, [SUBJECT], {"digests": SUBJECT, "x": None}]
)
async def test_missing_blobs_are_named(before: DistributionBackend, faulty: FaultyUpstream, detail: object) -> None:
    """However a registry says which blobs are missing, it is understood."""
    faulty.on("PUT", PUT_PATH, _missing(detail, "garbage"))
    with pytest.raises(MissingContentError) as caught:
        await before.put_manifest(NAME, [Tag("latest")], PUT, ANONYMOUS)
    assert caught.value.digests == (SUBJECT,)


REFUSALS = [
    pytest.param(
        error(400, "MANIFEST_INVALID", "no\x00t this\n" + "x" * 500), (400, "MANIFEST_INVALID"), "not this", id="400"
    ),
    pytest.param(_missing("garbage"), (400, "MANIFEST_INVALID"), "blob unknown", id="missing something"),
    pytest.param(
        error(412, "DENIED", "immutable tag"), (412, "MANIFEST_INVALID"), "immutable tag", id="Harbor's policies"
    ),
    pytest.param(
        error(404, "NAME_UNKNOWN", "no such project"), (404, "NAME_UNKNOWN"), "no such project", id="no project"
    ),
    pytest.param(error(405, "UNSUPPORTED", "read only"), (405, "UNSUPPORTED"), "read only", id="405"),
    pytest.param(answer(413), (502, "UNAVAILABLE"), "", id="a proxy between"),
]


@pytest.mark.parametrize(("turn", "expected", "words"), REFUSALS)
async def test_a_refusal_is_passed_on(
    before: DistributionBackend, faulty: FaultyUpstream, turn: Turn, expected: tuple[int, str], words: str
) -> None:
    """Where the upstream says what is wrong with a manifest, the client hears it, printable and short."""
    faulty.on("PUT", PUT_PATH, turn)
    with pytest.raises(RegistryError) as caught:
        await before.put_manifest(NAME, [Tag("latest")], PUT, ANONYMOUS)
    assert (caught.value.status, caught.value.code.name) == expected
    assert words in caught.value.message
    assert caught.value.message.isprintable()
    assert len(caught.value.message) < 300


async def test_by_digest_first_and_again(before: DistributionBackend, faulty: FaultyUpstream) -> None:
    """The manifest is put by digest, again where that failed, and then under its tags, each once."""
    by_digest = f"/v2/{NAME}/manifests/{PUT.digest}"
    faulty.on("PUT", by_digest, answer(500), answer(201))
    faulty.on("PUT", PUT_PATH, answer(500))
    with pytest.raises(RegistryError):
        await before.put_manifest(NAME, [PUT.digest, Tag("latest")], PUT, ANONYMOUS)
    puts = [one for one in faulty.asked if one.method == "PUT"]
    assert [one.target for one in puts] == [by_digest, by_digest, PUT_PATH]
    assert {one.body for one in puts} == {PUT.content}
    assert {one.headers["content-type"] for one in puts} == {OCI_MANIFEST}


# -- referrers ----------------------------------------------------------------------------------------------


def _entry(seed: str, artifact_type: str | None = None, **more: Any) -> dict[str, Any]:
    entry = {"mediaType": OCI_MANIFEST, "digest": Digest.of(seed.encode()), "size": 7, **more}
    return entry | ({"artifactType": artifact_type} if artifact_type else {})


ENTRIES = [
    _entry("a", "application/vnd.example.sbom", annotations={"one": "1", "bad": 2}),
    _entry("b", "application/vnd.example.signature"),
    _entry("c", "application/vnd.example.sbom"),
    _entry("d"),
    {**_entry("e"), "digest": "sha256:short"},
    {**_entry("f"), "size": "7"},
    {"digest": Digest.of(b"g")},
    "garbage",
]
SBOM = "application/vnd.example.sbom"


def _index(entries: Any) -> bytes:
    return json.dumps({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": entries}).encode()


def _expected(*seeds: str) -> list[Descriptor]:
    types = {"a": SBOM, "b": "application/vnd.example.signature", "c": SBOM, "d": None}
    found = [
        Descriptor(OCI_MANIFEST, Digest.of(seed.encode()), 7, types[seed], {"one": "1"} if seed == "a" else None)
        for seed in seeds
    ]
    return sorted(found, key=lambda item: item.digest)


def _with_api(faulty: FaultyUpstream) -> None:
    link = f'<{REFERRERS}?page=2>; rel="next"'
    first, second = _index(ENTRIES[:2]), _index(ENTRIES[2:])
    faulty.on(
        "GET",
        REFERRERS,
        answer(200, first, {"Content-Type": OCI_INDEX, "Link": link}),
        answer(200, second, {"Content-Type": OCI_INDEX}),
    )


def _with_fallback(faulty: FaultyUpstream) -> None:
    faulty.on("GET", REFERRERS, answer(404, b"404 page not found\n", {"Content-Type": "text/plain"}))
    faulty.on("GET", FALLBACK, answer(200, _index(ENTRIES), {"Content-Type": OCI_INDEX}))


@pytest.mark.parametrize("ways", [_with_api, _with_fallback])
async def test_referrers(before: DistributionBackend, faulty: FaultyUpstream, ways: Any) -> None:
    """Referrers come from the API or from the tag that clients keep, as descriptors, without what is malformed."""
    ways(faulty)
    assert await before.referrers(NAME, SUBJECT, None, "", 10) == _expected("a", "b", "c", "d")


async def test_referrers_are_filtered_and_cut(before: DistributionBackend, faulty: FaultyUpstream) -> None:
    """Of one artifact type, after a digest, at most so many."""
    _with_fallback(faulty)
    found = _expected("a", "c")
    assert await before.referrers(NAME, SUBJECT, SBOM, "", 10) == found
    assert await before.referrers(NAME, SUBJECT, SBOM, "", 1) == found[:1]
    assert await before.referrers(NAME, SUBJECT, SBOM, found[0].digest, 10) == found[1:]
    assert await before.referrers(NAME, SUBJECT, "application/none", "", 10) == []
    assert len(faulty.requests("GET", REFERRERS)) == 1


async def test_a_real_registry_without_the_api(backend: DistributionBackend) -> None:
    """Over Distribution 2.8 the tag that oras, cosign and others keep is read."""

    async def upload(blob: bytes) -> object:
        return await upload_blob(backend, blob)

    subject = await push_image(backend, upload, "subject", "latest")
    referrer = await push_image(backend, upload, "referrer")
    entry = Descriptor(OCI_MANIFEST, referrer.digest, referrer.size, SBOM, {"made": "today"})
    listed = _index([entry.as_json()])
    put = Manifest(Digest.of(listed), OCI_INDEX, len(listed), listed)
    await backend.put_manifest(NAME, [Tag(f"sha256-{subject.digest.encoded}")], put, ANONYMOUS)
    assert await backend.referrers(NAME, subject.digest, None, "", 10) == [entry]


async def test_a_manifest_as_large_as_may_be(backend: DistributionBackend) -> None:
    """A manifest of nearly 4 MiB passes in both directions."""
    await upload_blob(backend, b"{}")
    noise = content(1_900_000).hex()
    document = {
        "schemaVersion": 2,
        "mediaType": OCI_MANIFEST,
        "config": {"mediaType": "application/vnd.example.config", "digest": Digest.of(b"{}"), "size": 2},
        "layers": [],
        "annotations": {"noise": noise},
    }
    large = json.dumps(document).encode()
    put = Manifest(Digest.of(large), OCI_MANIFEST, len(large), large)
    await backend.put_manifest(NAME, [Tag("large")], put, ANONYMOUS)
    found = await backend.manifest(NAME, Tag("large"))
    assert found is not None
    assert found.content == large
