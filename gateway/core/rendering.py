"""How refusals are rendered: one shape, one place (specification, "Error Codes")."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from aiohttp import web

from gateway.core.jsonbytes import encode
from gateway.errors import RegistryError

API_VERSION: Final = {"Docker-Distribution-Api-Version": "registry/2.0"}
"""What Docker clients look for on every answer under ``/v2/``."""


def error_response(error: RegistryError) -> web.Response:
    """*error* as OCI JSON. The specification's ``detail`` is left out where there is none, as Distribution does."""
    entry: dict[str, object] = {"code": error.code.name, "message": error.message}
    if error.detail is not None:
        entry["detail"] = error.detail
    return web.Response(
        status=error.status,
        body=encode({"errors": [entry], **error.members}),
        headers={"Content-Type": "application/json", **error.headers},
    )


def json_response(document: object, headers: Mapping[str, str] | None = None, status: int = 200) -> web.Response:
    """*document* as JSON."""
    return web.Response(
        status=status,
        body=encode(document),
        headers={"Content-Type": "application/json", **(headers or {})},
    )
