"""The OpenAPI 3.1 document of the routes, made from their table and from the models of parameters and answers."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from http import HTTPStatus
from importlib.metadata import version
from typing import Any, Final, Literal

from aiohttp import web
from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from gateway.plugins import Asking
from plugins.gitlab_api.area import PREFIX, Door
from plugins.gitlab_api.events import CONTENT_TYPE
from plugins.gitlab_api.models import Envelope, Refusal
from plugins.gitlab_api.operations import Operation

_REFERENCE: Final = "#/components/schemas/{model}"
_PART: Final = re.compile(r"{(\w+)}")
_ALWAYS: Final = (405, 429, 503)
"""What any route may answer: to a method that it doesn't have, to an address whose tokens were wrong too often, and
while something behind it is down or read-only."""
_RELAYED: Final[Mapping[str, Any]] = {
    "description": "Before a GitLab, whatever else it answers.",
    "content": {"application/json": {"schema": {}}},
}
_WHY: Final[Mapping[int, str]] = {
    400: "A parameter is no good.",
    401: "The credential is no good, or one is needed.",
    403: "The caller may know of it and not do this.",
    404: "There is no such thing, or the caller may not know of it.",
    405: "The route has no such method.",
    408: "The body stopped coming.",
    413: "The body is too long.",
    415: "The body has a form that is not read here.",
    429: "Too many tokens from the caller's address were no good; see `Retry-After`.",
    503: "Something behind is down, or the registry is read-only for maintenance; see `Retry-After`.",
}
_PARTS: Final[Mapping[str, tuple[str, Mapping[str, Any]]]] = {
    "id": ("A number, or a path with its slashes encoded: `acme%2Fapp`.", {"type": "string"}),
    "repository_id": ("The repository's number.", {"type": "integer", "minimum": 1}),
    "tag_name": ("The tag's name.", {"type": "string"}),
}
_PAGES: Final = ("X-Total", "X-Total-Pages", "X-Page", "X-Per-Page", "X-Next-Page", "X-Prev-Page", "Link")
_SECURITY: Final[Mapping[str, Any]] = {
    "privateToken": {"type": "apiKey", "in": "header", "name": "PRIVATE-TOKEN", "description": "An access token."},
    "bearer": {"type": "http", "scheme": "bearer", "description": "An OAuth or access token."},
    "jobToken": {"type": "apiKey", "in": "header", "name": "JOB-TOKEN", "description": "Of a job of that project."},
    "registrySecret": {
        "type": "apiKey",
        "in": "header",
        "name": "Authorization",
        "description": "No scheme before it.",
    },
}
_FORMS: Final = ("application/json", "application/x-www-form-urlencoded", "multipart/form-data")


def document(operations: Sequence[Operation]) -> Mapping[str, Any]:
    """The whole document."""
    schemas = _Schemas(operations)
    paths: dict[str, dict[str, Any]] = {}
    for operation in operations:
        paths.setdefault(PREFIX + operation.path, {})[operation.method.lower()] = _operation(operation, schemas)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Registry Gateway: GitLab's REST API of the container registry",
            "version": version("registry-gateway"),
            "description": "What GitLab does not have is marked as ours.",
        },
        "paths": paths,
        "components": {"schemas": schemas.all, "securitySchemes": _SECURITY},
    }


class Documentation:
    """``GET /openapi.json``."""

    def __init__(self, operations: Sequence[Operation]) -> None:
        self._body = json.dumps(document(operations)).encode()

    async def handle(self, asking: Asking) -> web.StreamResponse:
        """The document, to anybody."""
        del asking
        return web.Response(body=self._body, headers={"Content-Type": "application/json"})


class _Schemas:
    """The JSON schemas of all models that operations name."""

    def __init__(self, operations: Sequence[Operation]) -> None:
        shown: dict[tuple[type[BaseModel], Literal["validation", "serialization"]], None] = {
            (Refusal, "serialization"): None
        }
        for one in operations:
            if one.answer is not None:
                shown[one.answer, "serialization"] = None
            if one.body is not None:
                shown[one.body, "validation"] = None
        self._named, document = models_json_schema(list(shown), ref_template=_REFERENCE)
        self.all: Mapping[str, Any] = document["$defs"]

    def of(self, model: type[BaseModel]) -> Mapping[str, Any]:
        """A reference to the model's schema."""
        return next(schema for (named, _), schema in self._named.items() if named is model)


def _operation(operation: Operation, schemas: _Schemas) -> Mapping[str, Any]:
    described: dict[str, Any] = {
        "summary": operation.summary + (" Ours." if operation.ours else ""),
        "operationId": _identifier(operation),
        "parameters": [*_path_parameters(operation), *_query_parameters(operation.query)],
        "responses": {
            str(int(operation.status)): _success(operation, schemas),
            **{str(status): _refusal(status, schemas) for status in sorted({*operation.statuses, *_ALWAYS})},
            **({"default": _RELAYED} if operation.relayed else {}),
        },
        "security": _security(operation),
    }
    if operation.body is not None:
        forms = _FORMS if operation.body is not Envelope else (CONTENT_TYPE, "application/json")
        described["requestBody"] = {"content": {form: {"schema": schemas.of(operation.body)} for form in forms}}
    return described


def _identifier(operation: Operation) -> str:
    words = [word for word in re.split(r"\W+", operation.path) if word]
    return "_".join((operation.method.lower(), *words))


def _security(operation: Operation) -> Sequence[Mapping[str, Any]]:
    """Which credentials open it; an empty one is nobody's."""
    if not isinstance(operation.door, Door):
        return [{"registrySecret": []}] if operation.body is Envelope else []
    schemes = ["privateToken", "bearer", *(["jobToken"] if operation.door.jobs else [])]
    return [*({scheme: []} for scheme in schemes), *([] if operation.door.login else [{}])]


def _path_parameters(operation: Operation) -> Sequence[Mapping[str, Any]]:
    single = operation.path.startswith("registry/")
    found = []
    for name in _PART.findall(operation.path):
        description, schema = _PARTS["repository_id" if single else name]
        found.append({"name": name, "in": "path", "required": True, "description": description, "schema": schema})
    return found


def _query_parameters(model: type[BaseModel] | None) -> Sequence[Mapping[str, Any]]:
    if model is None:
        return []
    schema = model.model_json_schema()
    return [
        {
            "name": name,
            "in": "query",
            "description": field.get("description", ""),
            "schema": _without_null({key: field[key] for key in field if key not in {"title", "description"}}),
        }
        for name, field in schema["properties"].items()
    ]


def _without_null(schema: dict[str, Any]) -> Mapping[str, Any]:
    """The schema of what a query can say: a parameter that is null is one that is not there."""
    kinds = schema.pop("anyOf", None)
    if schema.get("default", ...) is None:
        del schema["default"]
    return schema if kinds is None else {**next(kind for kind in kinds if kind != {"type": "null"}), **schema}


def _success(operation: Operation, schemas: _Schemas) -> Mapping[str, Any]:
    status = HTTPStatus(operation.status)
    if operation.answer is None:
        schema: Mapping[str, Any] = {"type": "integer", "const": int(status)}
    elif operation.many:
        schema = {"type": "array", "items": schemas.of(operation.answer)}
    else:
        schema = schemas.of(operation.answer)
    described: dict[str, Any] = {
        "description": status.phrase,
        "content": {"application/json": {"schema": schema}},
    }
    if operation.many and operation.query is not None:
        described["headers"] = {name: {"schema": {"type": "string"}} for name in _PAGES}
    return described


def _refusal(status: int, schemas: _Schemas) -> Mapping[str, Any]:
    return {"description": _WHY[status], "content": {"application/json": {"schema": schemas.of(Refusal)}}}
