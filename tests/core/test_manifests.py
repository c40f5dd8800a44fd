"""Manifests are read from hostile bytes: the right ones as what they say, all others refused."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.core.manifests import MAX_DESCRIPTORS, read
from gateway.errors import ErrorCode, RegistryError
from gateway.oci import Digest, MediaType

CONFIG_TYPE = "application/vnd.oci.image.config.v1+json"
LAYER_TYPE = "application/vnd.oci.image.layer.v1.tar+gzip"
CONFIG = Digest.of(b"config")
LAYER = Digest.of(b"layer")
OTHER = Digest.of(b"other", "sha512")


def _descriptor(digest: str = LAYER, media_type: str = LAYER_TYPE, **changed: object) -> dict[str, object]:
    return {"mediaType": media_type, "digest": digest, "size": 5, **changed}


def _image(**changed: Any) -> dict[str, Any]:
    return {
        "schemaVersion": 2,
        "mediaType": MediaType.OCI_MANIFEST,
        "config": _descriptor(CONFIG, CONFIG_TYPE),
        "layers": [_descriptor()],
        **changed,
    }


def _index(**changed: Any) -> dict[str, Any]:
    children = [_descriptor(LAYER, MediaType.OCI_MANIFEST)]
    return {"schemaVersion": 2, "mediaType": MediaType.OCI_INDEX, "manifests": children, **changed}


def _without(document: dict[str, Any], key: str) -> dict[str, Any]:
    return {name: value for name, value in document.items() if name != key}


def _bytes(document: object) -> bytes:
    return json.dumps(document).encode()


HOSTILE: dict[str, tuple[bytes, str | None]] = {
    "empty": (b"", MediaType.OCI_MANIFEST),
    "not-json": (b"<xml/>", MediaType.OCI_MANIFEST),
    "half": (_bytes(_image())[:-1], MediaType.OCI_MANIFEST),
    "not-utf8": (b"\xff\xfe{}", MediaType.OCI_MANIFEST),
    "utf16": (json.dumps(_image()).encode("utf-16"), MediaType.OCI_MANIFEST),
    "deep": (b"[" * 200_000, MediaType.OCI_MANIFEST),
    "deep-object": (b'{"a":' * 200_000, MediaType.OCI_MANIFEST),
    "endless-number": (b'{"schemaVersion":' + b"2" * 10_000 + b"}", MediaType.OCI_MANIFEST),
    "list": (b"[]", MediaType.OCI_MANIFEST),
    "null": (b"null", MediaType.OCI_MANIFEST),
    "text": (b'"manifest"', MediaType.OCI_MANIFEST),
    "nothing-in-it": (b"{}", None),
    "no-version": (_bytes(_without(_image(), "schemaVersion")), MediaType.OCI_MANIFEST),
    "version-is-text": (_bytes(_image(schemaVersion="2")), MediaType.OCI_MANIFEST),
    "version-three": (_bytes(_image(schemaVersion=3)), MediaType.OCI_MANIFEST),
    "version-nan": (b'{"schemaVersion": NaN}', MediaType.OCI_MANIFEST),
    "schema-1": (b'{"schemaVersion": 1}', None),
    "schema-1-type": (_bytes(_without(_image(), "mediaType")), MediaType.DOCKER_SCHEMA1_SIGNED),
    "type-is-a-list": (_bytes(_image(mediaType=[])), MediaType.OCI_MANIFEST),
    "type-is-another": (_bytes(_image()), MediaType.OCI_INDEX),
    "type-is-unknown": (_bytes(_image(mediaType="text/plain")), "text/plain"),
    "json-of-no-type": (_bytes(_without(_image(), "mediaType")), "application/json"),
    "no-config": (_bytes(_without(_image(), "config")), MediaType.OCI_MANIFEST),
    "config-is-null": (_bytes(_image(config=None)), MediaType.OCI_MANIFEST),
    "config-is-a-list": (_bytes(_image(config=[CONFIG])), MediaType.OCI_MANIFEST),
    "no-layers": (_bytes(_without(_image(), "layers")), MediaType.OCI_MANIFEST),
    "layers-is-an-object": (_bytes(_image(layers={})), MediaType.OCI_MANIFEST),
    "layer-is-text": (_bytes(_image(layers=[LAYER])), MediaType.OCI_MANIFEST),
    "layer-is-null": (_bytes(_image(layers=[None])), MediaType.OCI_MANIFEST),
    "too-many-layers": (_bytes(_image(layers=[0] * (MAX_DESCRIPTORS + 1))), MediaType.OCI_MANIFEST),
    "digest-is-a-path": (_bytes(_image(layers=[_descriptor("../../etc/passwd")])), MediaType.OCI_MANIFEST),
    "digest-of-md5": (_bytes(_image(layers=[_descriptor("md5:" + "0" * 32)])), MediaType.OCI_MANIFEST),
    "digest-is-a-number": (_bytes(_image(layers=[{**_descriptor(), "digest": 5}])), MediaType.OCI_MANIFEST),
    "size-is-negative": (_bytes(_image(layers=[_descriptor(size=-1)])), MediaType.OCI_MANIFEST),
    "size-is-true": (_bytes(_image(layers=[_descriptor(size=True)])), MediaType.OCI_MANIFEST),
    "size-is-a-fraction": (_bytes(_image(layers=[_descriptor(size=1.5)])), MediaType.OCI_MANIFEST),
    "size-is-text": (_bytes(_image(layers=[_descriptor(size="5")])), MediaType.OCI_MANIFEST),
    "size-is-beyond-64-bits": (_bytes(_image(layers=[_descriptor(size=1 << 63)])), MediaType.OCI_MANIFEST),
    "layer-without-type": (_bytes(_image(layers=[_descriptor(mediaType=None)])), MediaType.OCI_MANIFEST),
    "layer-of-a-long-type": (_bytes(_image(layers=[_descriptor(mediaType="a" * 256)])), MediaType.OCI_MANIFEST),
    "layer-of-a-type-with-nul": (_bytes(_image(layers=[_descriptor(mediaType="a\0b")])), MediaType.OCI_MANIFEST),
    "subject-is-text": (_bytes(_image(subject=LAYER)), MediaType.OCI_MANIFEST),
    "subject-without-size": (_bytes(_image(subject=_without(_descriptor(), "size"))), MediaType.OCI_MANIFEST),
    "artifact-type-is-a-number": (_bytes(_image(artifactType=1)), MediaType.OCI_MANIFEST),
    "artifact-type-is-not-ascii": (_bytes(_image(artifactType="\u00e4/b")), MediaType.OCI_MANIFEST),
    "annotations-is-a-list": (_bytes(_image(annotations=[])), MediaType.OCI_MANIFEST),
    "annotation-is-a-number": (_bytes(_image(annotations={"a": 1})), MediaType.OCI_MANIFEST),
    "image-with-manifests": (_bytes(_image(manifests=[])), MediaType.OCI_MANIFEST),
    "index-with-layers": (_bytes(_index(layers=[])), MediaType.OCI_INDEX),
    "index-with-config": (_bytes(_index(config=_descriptor())), MediaType.OCI_INDEX),
    "index-without-manifests": (_bytes(_without(_index(), "manifests")), MediaType.OCI_INDEX),
    "child-is-a-number": (_bytes(_index(manifests=[1])), MediaType.OCI_INDEX),
}

TYPES: dict[str, tuple[dict[str, Any], str | None, str]] = {
    "said-twice": (_image(), MediaType.OCI_MANIFEST, MediaType.OCI_MANIFEST),
    "with-parameters": (_image(), f"{MediaType.OCI_MANIFEST}; charset=utf-8", MediaType.OCI_MANIFEST),
    "header-in-capitals": (_image(), MediaType.OCI_MANIFEST.upper(), MediaType.OCI_MANIFEST),
    "header-alone": (_without(_image(), "mediaType"), MediaType.OCI_MANIFEST, MediaType.OCI_MANIFEST),
    "document-alone": (_index(), None, MediaType.OCI_INDEX),
    "bytes": (_image(), "application/octet-stream", MediaType.OCI_MANIFEST),
    "json": (_index(), "application/json", MediaType.OCI_INDEX),
    "guessed-image": (_without(_image(), "mediaType"), None, MediaType.OCI_MANIFEST),
    "guessed-index": (_without(_index(), "mediaType"), None, MediaType.OCI_INDEX),
    "docker-image": (_image(mediaType=MediaType.DOCKER_MANIFEST), MediaType.DOCKER_MANIFEST, MediaType.DOCKER_MANIFEST),
    "docker-list": (_index(mediaType=MediaType.DOCKER_LIST), MediaType.DOCKER_LIST, MediaType.DOCKER_LIST),
}

NOT_FETCHED = {
    "urls": _descriptor(OTHER, urls=["https://example.com/layer"]),
    "nondistributable": _descriptor(OTHER, "application/vnd.oci.image.layer.nondistributable.v1.tar"),
    "foreign": _descriptor(OTHER, "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip"),
}

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters(), max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=4), inner, max_size=4),
    max_leaves=10,
)
CONTENT_TYPES = st.one_of(st.none(), st.sampled_from(MediaType), st.text(max_size=20))


@pytest.mark.parametrize(("content", "content_type"), HOSTILE.values(), ids=HOSTILE)
def test_a_hostile_manifest_is_invalid(content: bytes, content_type: str | None) -> None:
    """Whatever is no manifest is refused as one, in a sentence."""
    with pytest.raises(RegistryError) as caught:
        read(content, content_type)
    assert (caught.value.code, caught.value.status) == (ErrorCode.MANIFEST_INVALID, 400)
    assert len(caught.value.message) < 2000


@pytest.mark.parametrize(("document", "content_type", "wanted"), TYPES.values(), ids=TYPES)
def test_a_manifest_has_the_type_that_it_says(document: dict[str, Any], content_type: str | None, wanted: str) -> None:
    """The header and the document together say what a manifest is; OCI documents without either are told apart."""
    assert read(_bytes(document), content_type)[0] == wanted


def test_an_image_says_what_it_consists_of() -> None:
    """Config, layers, subject and annotations come out as they went in."""
    document = _image(subject=_descriptor(OTHER), annotations={"title": "an image"}, artifactType="a/b")
    _, details = read(_bytes(document), None)
    assert details.config is not None
    assert (details.config.digest, details.config.media_type, details.config.size) == (CONFIG, CONFIG_TYPE, 5)
    assert [layer.digest for layer in details.layers] == [LAYER]
    assert details.manifests == ()
    assert (details.subject, details.annotations, details.artifact_type) == (OTHER, {"title": "an image"}, "a/b")


def test_the_config_is_the_artifact_type_of_an_image_without_one() -> None:
    """An image that does not say what artifact it is, is what its config is."""
    assert read(_bytes(_image()), None)[1].artifact_type == CONFIG_TYPE


def test_an_index_has_no_artifact_type_of_its_own() -> None:
    """An index that does not say what artifact it is, is none."""
    assert read(_bytes(_index()), None)[1].artifact_type is None


def test_an_image_requires_its_config_and_layers() -> None:
    """What a client will fetch must be there before the image; its subject need not."""
    _, details = read(_bytes(_image(subject=_descriptor(OTHER))), None)
    assert details.required == {CONFIG, LAYER}


@pytest.mark.parametrize("layer", NOT_FETCHED.values(), ids=NOT_FETCHED)
def test_a_layer_that_nobody_fetches_here_is_not_required(layer: dict[str, object]) -> None:
    """Layers from elsewhere are listed and need not be there."""
    _, details = read(_bytes(_image(layers=[_descriptor(), layer])), None)
    assert details.required == {CONFIG, LAYER}
    assert len(details.layers) == 2


def test_an_index_requires_its_children() -> None:
    """Every manifest that an index names must be there before it."""
    _, details = read(_bytes(_index(manifests=[_descriptor(LAYER), _descriptor(OTHER)])), None)
    assert details.required == {LAYER, OTHER}
    assert [child.digest for child in details.manifests] == [LAYER, OTHER]


@given(content=st.binary(), content_type=CONTENT_TYPES)
def test_any_bytes_are_a_manifest_or_a_refusal(content: bytes, content_type: str | None) -> None:
    """No bytes raise anything but a RegistryError."""
    _manifest_or_refusal(content, content_type)


@given(document=JSON, content_type=CONTENT_TYPES)
def test_any_json_is_a_manifest_or_a_refusal(document: object, content_type: str | None) -> None:
    """No JSON raises anything but a RegistryError."""
    _manifest_or_refusal(_bytes(document), content_type)


@given(
    document=st.sampled_from([_image(), _index()]),
    key=st.sampled_from(
        ["schemaVersion", "mediaType", "config", "layers", "manifests", "subject", "annotations", "artifactType"]
    ),
    value=st.one_of(
        JSON,
        st.dictionaries(st.sampled_from(["mediaType", "digest", "size", "urls"]), JSON),
        st.lists(st.fixed_dictionaries({"mediaType": JSON, "digest": st.just(LAYER), "size": JSON}), max_size=2),
    ),
)
def test_any_value_of_a_known_key_is_a_manifest_or_a_refusal(document: dict[str, Any], key: str, value: object) -> None:
    """No value where a manifest has something else raises anything but a RegistryError."""
    _manifest_or_refusal(_bytes({**document, key: value}), None)


def _manifest_or_refusal(content: bytes, content_type: str | None) -> None:
    try:
        media_type, details = read(content, content_type)
    except RegistryError as error:
        assert error.code is ErrorCode.MANIFEST_INVALID  # noqa: PT017 - a refusal is one of the two right answers
    else:
        assert media_type in set(MediaType)
        assert all(Digest.parse(digest) == digest for digest in details.required)
