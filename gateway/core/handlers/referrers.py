"""``GET /v2/<name>/referrers/<digest>`` (end-12a, end-12b)."""

from __future__ import annotations

from typing import Final

from aiohttp import web

from gateway.core.handlers.base import Exchange, next_page
from gateway.core.rendering import json_response
from gateway.oci import MediaType

PAGE: Final = 1000
"""Descriptors of one page; an index of so many stays below the limit of a manifest."""


async def get(exchange: Exchange) -> web.StreamResponse:
    """An index of the manifests whose subject is the digest; empty where there are none, whether it exists or not."""
    digest = exchange.route.digest
    assert digest is not None
    wanted = exchange.route.parameter("artifactType") or None
    last = exchange.route.parameter("last") or ""
    store = await exchange.store()
    found = list(await store.referrers(exchange.name, digest, wanted, last, PAGE + 1))
    headers = {"OCI-Filters-Applied": "artifactType"} if wanted else {}
    if len(found) > PAGE:
        found = found[:PAGE]
        parameters = {"last": str(found[-1].digest), **({"artifactType": wanted} if wanted else {})}
        headers |= next_page(exchange.path(f"{exchange.name}/referrers/{digest}"), parameters)
    index = {
        "schemaVersion": 2,
        "mediaType": MediaType.OCI_INDEX,
        "manifests": [descriptor.as_json() for descriptor in found],
    }
    return json_response(index, headers | {"Content-Type": MediaType.OCI_INDEX})
