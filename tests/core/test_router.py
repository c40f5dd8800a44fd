"""Request lines become routes: every legal one the right one, every other a refusal."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.core.router import NEEDS, Kind, Route, parse
from gateway.errors import ErrorCode, RegistryError
from gateway.oci import Digest, RepositoryName, Tag

DIGEST = "sha256:" + "0123456789abcdef" * 4
DIGEST_512 = "sha512:" + "0123456789abcdef" * 8

ROUTES = {
    "base": ("GET", "/v2/", Route(Kind.BASE, "GET")),
    "base-without-slash": ("GET", "/v2", Route(Kind.BASE, "GET")),
    "base-head": ("HEAD", "/v2/", Route(Kind.BASE, "HEAD")),
    "catalog": ("GET", "/v2/_catalog", Route(Kind.CATALOG, "GET")),
    "tags": ("GET", "/v2/acme/app/tags/list", Route(Kind.TAGS, "GET", RepositoryName("acme/app"))),
    "tags-of-one-component": ("GET", "/v2/app/tags/list", Route(Kind.TAGS, "GET", RepositoryName("app"))),
    "tags-of-tags-list": ("GET", "/v2/tags/list/tags/list", Route(Kind.TAGS, "GET", RepositoryName("tags/list"))),
    "tags-of-blobs": ("GET", "/v2/acme/blobs/tags/list", Route(Kind.TAGS, "GET", RepositoryName("acme/blobs"))),
    "tags-of-manifests": ("GET", "/v2/a/manifests/tags/list", Route(Kind.TAGS, "GET", RepositoryName("a/manifests"))),
    "manifest-by-tag": (
        "GET",
        "/v2/acme/app/manifests/latest",
        Route(Kind.MANIFEST, "GET", RepositoryName("acme/app"), reference=Tag("latest")),
    ),
    "manifest-by-digest": (
        "PUT",
        f"/v2/acme/app/manifests/{DIGEST}",
        Route(Kind.MANIFEST, "PUT", RepositoryName("acme/app"), reference=Digest(DIGEST)),
    ),
    "manifest-by-sha512": (
        "DELETE",
        f"/v2/acme/app/manifests/{DIGEST_512}",
        Route(Kind.MANIFEST, "DELETE", RepositoryName("acme/app"), reference=Digest(DIGEST_512)),
    ),
    "manifest-of-manifests": (
        "GET",
        "/v2/manifests/manifests/manifests/manifests",
        Route(Kind.MANIFEST, "GET", RepositoryName("manifests/manifests"), reference=Tag("manifests")),
    ),
    "manifest-of-blobs-uploads": (
        "GET",
        "/v2/a/blobs/uploads/manifests/list",
        Route(Kind.MANIFEST, "GET", RepositoryName("a/blobs/uploads"), reference=Tag("list")),
    ),
    "manifest-of-no-tag": (
        "GET",
        "/v2/acme/app/manifests/.hidden",
        Route(Kind.MANIFEST, "GET", RepositoryName("acme/app")),
    ),
    "blob": (
        "HEAD",
        f"/v2/acme/app/blobs/{DIGEST}",
        Route(Kind.BLOB, "HEAD", RepositoryName("acme/app"), digest=Digest(DIGEST)),
    ),
    "blob-with-encoded-colon": (
        "GET",
        f"/v2/acme/app/blobs/{DIGEST.replace(':', '%3A')}",
        Route(Kind.BLOB, "GET", RepositoryName("acme/app"), digest=Digest(DIGEST)),
    ),
    "blob-of-uploads": (
        "GET",
        f"/v2/blobs/uploads/blobs/{DIGEST}",
        Route(Kind.BLOB, "GET", RepositoryName("blobs/uploads"), digest=Digest(DIGEST)),
    ),
    "uploads": ("POST", "/v2/acme/app/blobs/uploads/", Route(Kind.UPLOADS, "POST", RepositoryName("acme/app"))),
    "uploads-without-slash": (
        "POST",
        "/v2/acme/app/blobs/uploads",
        Route(Kind.UPLOADS, "POST", RepositoryName("acme/app")),
    ),
    "uploads-of-blobs-uploads": (
        "POST",
        "/v2/blobs/uploads/blobs/uploads/",
        Route(Kind.UPLOADS, "POST", RepositoryName("blobs/uploads")),
    ),
    "uploads-to-mount": (
        "POST",
        f"/v2/acme/app/blobs/uploads/?mount={DIGEST}&from=acme%2Fother",
        Route(Kind.UPLOADS, "POST", RepositoryName("acme/app"), query=(("mount", DIGEST), ("from", "acme/other"))),
    ),
    "upload": (
        "PATCH",
        "/v2/acme/app/blobs/uploads/3f1c.sealed-part_",
        Route(Kind.UPLOAD, "PATCH", RepositoryName("acme/app"), session="3f1c.sealed-part_"),
    ),
    "upload-of-tags-list": (
        "PUT",
        f"/v2/tags/list/blobs/uploads/s?digest={DIGEST}",
        Route(Kind.UPLOAD, "PUT", RepositoryName("tags/list"), session="s", query=(("digest", DIGEST),)),
    ),
    "referrers": (
        "GET",
        f"/v2/acme/app/referrers/{DIGEST}",
        Route(Kind.REFERRERS, "GET", RepositoryName("acme/app"), digest=Digest(DIGEST)),
    ),
    "referrers-of-referrers": (
        "GET",
        f"/v2/referrers/referrers/{DIGEST}?artifactType=a&artifactType=b",
        Route(
            Kind.REFERRERS,
            "GET",
            RepositoryName("referrers"),
            digest=Digest(DIGEST),
            query=(("artifactType", "a"), ("artifactType", "b")),
        ),
    ),
}

PATHS = {
    Kind.BASE: "/v2/",
    Kind.CATALOG: "/v2/_catalog",
    Kind.TAGS: "/v2/acme/app/tags/list",
    Kind.MANIFEST: "/v2/acme/app/manifests/latest",
    Kind.BLOB: f"/v2/acme/app/blobs/{DIGEST}",
    Kind.UPLOADS: "/v2/acme/app/blobs/uploads/",
    Kind.UPLOAD: "/v2/acme/app/blobs/uploads/session",
    Kind.REFERRERS: f"/v2/acme/app/referrers/{DIGEST}",
}
METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "CONNECT", "get", "")
MISSING = [(kind, method) for kind in Kind for method in METHODS if method not in NEEDS[kind]]

HOSTILE = {
    "encoded-slash": ("GET", "/v2/acme%2Fapp/manifests/latest", ErrorCode.NAME_INVALID),
    "encoded-slash-lower": ("GET", "/v2/acme%2fapp/tags/list", ErrorCode.NAME_INVALID),
    "twice-encoded-slash": ("GET", "/v2/acme%252Fapp/manifests/latest", ErrorCode.NAME_INVALID),
    "encoded-backslash": ("GET", "/v2/acme%5Capp/manifests/latest", ErrorCode.NAME_INVALID),
    "traversal": ("GET", "/v2/acme/../other/manifests/latest", ErrorCode.NAME_INVALID),
    "encoded-traversal": ("GET", "/v2/acme/%2e%2e/other/manifests/latest", ErrorCode.NAME_INVALID),
    "half-encoded-traversal": ("GET", "/v2/acme/.%2e/other/manifests/latest", ErrorCode.NAME_INVALID),
    "encoded-dot": ("GET", "/v2/acme/%2e/app/tags/list", ErrorCode.NAME_INVALID),
    "traversal-in-the-tag": ("PUT", "/v2/acme/app/manifests/..", ErrorCode.MANIFEST_INVALID),
    "empty-component": ("GET", "/v2/acme//app/manifests/latest", ErrorCode.NAME_INVALID),
    "empty-name": ("GET", "/v2//manifests/latest", ErrorCode.NAME_INVALID),
    "nul": ("GET", "/v2/acme/app%00/manifests/latest", ErrorCode.NAME_INVALID),
    "line-feed": ("GET", "/v2/acme/app/manifests/latest%0A", ErrorCode.NAME_INVALID),
    "not-utf8": ("GET", "/v2/acme/%FF/manifests/latest", ErrorCode.NAME_INVALID),
    "upper-case": ("GET", "/v2/ACME/app/manifests/latest", ErrorCode.NAME_INVALID),
    "not-ascii": ("GET", "/v2/acm\u00e9/app/manifests/latest", ErrorCode.NAME_INVALID),
    "long-name": ("GET", f"/v2/{'a' * 256}/manifests/latest", ErrorCode.NAME_INVALID),
    "long-name-of-components": ("POST", f"/v2/{'/'.join('a' * 129)}/blobs/uploads/", ErrorCode.NAME_INVALID),
    "short-digest": ("GET", "/v2/acme/app/blobs/sha256:abc", ErrorCode.DIGEST_INVALID),
    "upper-case-digest": ("GET", f"/v2/acme/app/blobs/sha256:{'A' * 64}", ErrorCode.DIGEST_INVALID),
    "unknown-algorithm": ("GET", f"/v2/acme/app/blobs/md5:{'0' * 32}", ErrorCode.DIGEST_INVALID),
    "tag-for-a-blob": ("GET", "/v2/acme/app/blobs/latest", ErrorCode.DIGEST_INVALID),
    "no-blob": ("GET", "/v2/acme/app/blobs/", ErrorCode.DIGEST_INVALID),
    "uploads-read": ("GET", "/v2/acme/app/blobs/uploads", ErrorCode.DIGEST_INVALID),
    "bad-digest-of-a-manifest": ("GET", "/v2/acme/app/manifests/sha256:zz", ErrorCode.DIGEST_INVALID),
    "tag-for-referrers": ("GET", "/v2/acme/app/referrers/latest", ErrorCode.DIGEST_INVALID),
    "tag-begins-with-dash": ("PUT", "/v2/acme/app/manifests/-x", ErrorCode.MANIFEST_INVALID),
    "long-tag": ("PUT", f"/v2/acme/app/manifests/{'a' * 129}", ErrorCode.MANIFEST_INVALID),
    "no-tag": ("PUT", "/v2/acme/app/manifests/", ErrorCode.MANIFEST_INVALID),
    "no-endpoint": ("GET", "/v2/acme/app", ErrorCode.NAME_UNKNOWN),
    "no-name-for-manifests": ("GET", "/v2/manifests/latest", ErrorCode.NAME_UNKNOWN),
    "no-name-for-tags": ("GET", "/v2/tags/list", ErrorCode.NAME_UNKNOWN),
    "slash-behind-tags": ("GET", "/v2/acme/app/tags/list/", ErrorCode.NAME_UNKNOWN),
    "below-the-catalog": ("GET", "/v2/_catalog/x", ErrorCode.NAME_UNKNOWN),
    "query-of-too-many-fields": ("GET", "/v2/acme/app/tags/list?" + "n=1&" * 1001, ErrorCode.UNSUPPORTED),
}

COMPONENT = st.one_of(
    st.sampled_from(["blobs", "tags", "manifests", "uploads", "list", "referrers", "v2"]),
    st.from_regex(r"[a-z0-9]{1,6}(?:(?:\.|_|__|-{1,3})[a-z0-9]{1,6}){0,2}", fullmatch=True),
)
NAMES = st.lists(COMPONENT, min_size=1, max_size=6).map("/".join)
SEGMENT = st.one_of(
    COMPONENT, st.text(st.characters(), max_size=8), st.sampled_from(["", ".", "..", "%2f", "%2e", "%", "%ff", DIGEST])
)


@pytest.mark.parametrize(("method", "path", "route"), ROUTES.values(), ids=ROUTES)
def test_a_request_line_becomes_its_route(method: str, path: str, route: Route) -> None:
    """Whatever words a name holds, the last segments decide the resource."""
    assert parse(method, path) == route


@pytest.mark.parametrize(("kind", "method"), MISSING, ids=[f"{kind}-{method or 'none'}" for kind, method in MISSING])
def test_a_method_that_a_resource_lacks_is_refused_with_those_it_has(kind: Kind, method: str) -> None:
    """A 405 names in Allow what would have worked."""
    with pytest.raises(RegistryError) as caught:
        parse(method, PATHS[kind])
    assert (caught.value.status, caught.value.code) == (405, ErrorCode.UNSUPPORTED)
    assert caught.value.headers["Allow"] == ", ".join(NEEDS[kind])


@pytest.mark.parametrize(("method", "path", "code"), HOSTILE.values(), ids=HOSTILE)
def test_a_hostile_path_is_refused(method: str, path: str, code: ErrorCode) -> None:
    """Nothing that can't be a name, tag or digest gets beyond the router, and all of it is the client's fault."""
    with pytest.raises(RegistryError) as caught:
        parse(method, path)
    assert caught.value.code is code
    assert 400 <= caught.value.status < 500


@given(method=st.sampled_from(METHODS), path=st.text(st.characters()))
def test_any_text_is_a_route_or_a_refusal(method: str, path: str) -> None:
    """No text raises anything but a RegistryError of the 400s."""
    _route_or_refusal(method, path)


@given(method=st.sampled_from(METHODS), segments=st.lists(SEGMENT, max_size=8), query=st.text(max_size=10))
def test_any_path_of_likely_segments_is_a_route_or_a_refusal(method: str, segments: list[str], query: str) -> None:
    """No mixture of the words that the router knows with hostile ones raises anything but a RegistryError."""
    _route_or_refusal(method, f"/v2/{'/'.join(segments)}?{query}")


@given(name=NAMES)
def test_a_legal_name_comes_back_from_every_resource(name: str) -> None:
    """The name that a client puts before a suffix is the name that the route has."""
    wanted = {kind: path.replace("acme/app", name) for kind, path in PATHS.items() if "acme/app" in path}
    for kind, path in wanted.items():
        route = parse(next(iter(NEEDS[kind])), path)
        assert (route.kind, route.name) == (kind, name)


def test_a_route_gives_its_query_parameters() -> None:
    """The first of repeated parameters counts where one is asked for, and none is lost where all are."""
    route = parse("GET", "/v2/acme/app/tags/list?n=1&last=&n=2")
    assert route.parameter("n") == "1"
    assert route.parameter("last") == ""
    assert route.parameter("digest") is None
    assert route.parameters("n") == ["1", "2"]


def _route_or_refusal(method: str, path: str) -> None:
    try:
        route = parse(method, path)
    except RegistryError as error:
        assert 400 <= error.status < 500  # noqa: PT017 - a refusal is one of the two right answers
    else:
        assert route.name is None or RepositoryName.parse(route.name) == route.name
