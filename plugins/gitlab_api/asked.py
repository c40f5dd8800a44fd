"""What a request says: its query, its body in each of the forms that GitLab takes, the parts of its path."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Iterator
from email.message import Message
from functools import partial
from http import HTTPStatus
from typing import Any, Final, TypeVar
from urllib.parse import parse_qsl, unquote_to_bytes

from aiohttp import web

from gateway.plugins import Asking, ErrorCode, RegistryError
from plugins.gitlab_api.errors import ApiError, invalid, malformed, missing, sound

MAX_BODY: Final = 1024 * 1024
"""Bytes of a body with parameters."""
_MOST_PARAMETERS: Final = 1000
_LONGEST_NUMBER: Final = 18
"""Digits of an id that any database keeps."""
_LONGEST_DISPOSITION: Final = 1024
_DISPOSITION: Final = b"content-disposition:"
_BRACKETS: Final = re.compile(r"([^\[\]]+)\[([^\[\]]+)\]")

Pair = tuple[str, str]
T = TypeVar("T")


def query(request: web.BaseRequest) -> list[Pair]:
    """The parameters of the query in their order. Raises ApiError 400 where it is no text."""
    return _pairs(request.raw_path.partition("?")[2].encode(errors="surrogateescape"))


def parameters(request: web.BaseRequest) -> dict[str, Any]:
    """The parameters of the query; of several with one name the last."""
    return _nested(query(request))


async def all_parameters(asking: Asking) -> dict[str, Any]:
    """The parameters of query and body, the body's before the query's.

    Raises RegistryError: 400 for what can't be read, 413 for too much, 415 for another form.
    """
    return parameters(asking.request) | decoded(await asking.read(MAX_BODY), asking.request.headers.get("Content-Type"))


def key(text: str) -> int | str:
    """The number or path that names a project or group, from one part of the URL's path."""
    plain = part(text)
    if plain.isascii() and plain.isdecimal() and len(plain) <= _LONGEST_NUMBER:
        return int(plain)
    return plain


def number(name: str, text: str) -> int:
    """A number of the path. Raises ApiError: 400 for what is none, 404 for one that no database keeps."""
    plain = part(text)
    if not (plain.isascii() and plain.isdecimal()):
        raise invalid(f"{name} is invalid")
    if len(plain) > _LONGEST_NUMBER:
        raise missing()
    return int(plain)


def part(text: str) -> str:
    """One part of the URL's path, decoded. Raises ApiError 400 where it is no text."""
    try:
        return sound(unquote_to_bytes(text.encode(errors="surrogateescape")).decode())
    except UnicodeDecodeError as error:
        raise malformed() from error


def decoded(body: bytes, content_type: str | None) -> dict[str, Any]:
    """The parameters of a body."""
    form = Message()
    form["Content-Type"] = content_type or "application/json"
    if not body:
        return {}
    match form.get_content_type():
        case "application/json":
            return _from_json(body)
        case "application/x-www-form-urlencoded":
            return _nested(_pairs(body))
        case "multipart/form-data":
            return _nested(_parts(body, _readable(form.get_boundary)))
        case _:
            # Email's rule for a malformed type is text/plain, which is none of ours either.
            error = f"The provided content-type '{content_type}' is not supported."
            raise ApiError(HTTPStatus.UNSUPPORTED_MEDIA_TYPE, {"error": error})


def _from_json(body: bytes) -> dict[str, Any]:
    try:
        found = json.loads(body.decode())
    except (ValueError, RecursionError) as error:
        raise invalid("message body does not match declared format") from error
    if not isinstance(found, dict):
        raise invalid("message body does not match declared format")
    return found


def _pairs(encoded: bytes) -> list[Pair]:
    # Bytes that are not percent-encoded, as curl sends them, ride through as surrogates.
    text = encoded.decode("ascii", "surrogateescape")
    try:
        found = parse_qsl(text, keep_blank_values=True, errors="surrogateescape", max_num_fields=_MOST_PARAMETERS)
        return [(_utf8(name), _utf8(value)) for name, value in found]
    except ValueError as error:
        raise malformed() from error


def _utf8(text: str) -> str:
    return text.encode(errors="surrogateescape").decode()


def _parts(body: bytes, boundary: str | None) -> Iterator[Pair]:
    """The fields of a form in parts (RFC 7578); files are not for us."""
    if not boundary:
        raise invalid("message body does not match declared format")
    parts = body.split(b"--" + boundary.encode(errors="replace"), _MOST_PARAMETERS)
    for one in parts[1:]:
        head, _, value = one.partition(b"\r\n\r\n")
        name = _field(head)
        if name is not None:
            try:
                yield name, value.removesuffix(b"\r\n").decode()
            except UnicodeDecodeError as error:
                raise malformed() from error


def _field(head: bytes) -> str | None:
    """The name of the field that a part with these headers is; None for a file."""
    for line in head.split(b"\r\n"):
        if line.lower().startswith(_DISPOSITION) and len(line) <= _LONGEST_DISPOSITION:
            part = Message()
            part["Content-Disposition"] = line[len(_DISPOSITION) :].decode("ascii", "replace")
            name = _readable(partial(part.get_param, "name", header="content-disposition"))
            return name if isinstance(name, str) and _readable(part.get_filename) is None else None
    return None


def _readable(parameter: Callable[[], T]) -> T:
    """A parameter of a header, which may be in any encoding (RFC 2231). Raises ApiError 400 where that is none."""
    try:
        return parameter()
    except (ValueError, LookupError) as error:
        raise malformed() from error


def _nested(pairs: Iterable[Pair]) -> dict[str, Any]:
    """``a[b]=c`` is ``{"a": {"b": "c"}}``; nothing of ours lies deeper."""
    found: dict[str, Any] = {}
    for name, value in pairs:
        brackets = _BRACKETS.fullmatch(name)
        if brackets is None:
            found[name] = value
            continue
        inner = found.setdefault(brackets[1], {})
        if isinstance(inner, dict):
            inner[brackets[2]] = value
    return found


def given_up(error: RegistryError) -> bool:
    """Whether *error* is not the client's doing."""
    known = error.code in {ErrorCode.UNAVAILABLE, ErrorCode.TOOMANYREQUESTS}
    return known or error.status >= HTTPStatus.INTERNAL_SERVER_ERROR
