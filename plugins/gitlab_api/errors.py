"""How GitLab says no: statuses, words and the two forms of its answers (semantics 6)."""

from __future__ import annotations

import json
from collections.abc import Mapping
from http import HTTPStatus
from typing import Any, Final

from aiohttp import web

from gateway.plugins import ErrorCode, RegistryError

TROUBLE: Final = (
    "We are having trouble connecting to the Container Registry. "
    "If this error persists, please review the troubleshooting documentation."
)
LEASED: Final = (
    "This request has already been made. You can run this at most once an hour for a given container repository"
)
FOREIGN_JOB: Final = (
    "403 Forbidden - This project's CI/CD job token cannot be used to authenticate with the container registry "
    "of a different project."
)
NOT_FOUND: Final = "404 Not found"
NO_PROJECT: Final = "404 Project Not Found"
NO_GROUP: Final = "404 Group Not Found"
NO_TAG: Final = "404 Tag Not Found"

_RETRY: Final = {"Retry-After": "5"}
_HEADERS: Final = {"Content-Type": "application/json", "Cache-Control": "max-age=0, private, must-revalidate"}
_CODES: Final[Mapping[int, ErrorCode]] = {
    HTTPStatus.UNAUTHORIZED: ErrorCode.UNAUTHORIZED,
    HTTPStatus.FORBIDDEN: ErrorCode.DENIED,
    HTTPStatus.SERVICE_UNAVAILABLE: ErrorCode.UNAVAILABLE,
}
_FRAMEWORK: Final[Mapping[int, str]] = {
    HTTPStatus.NOT_FOUND: "404 Not Found",
    HTTPStatus.METHOD_NOT_ALLOWED: "405 Not Allowed",
}
_WORDS: Final[Mapping[int, str]] = {
    HTTPStatus.UNAUTHORIZED: "401 Unauthorized",
    HTTPStatus.REQUEST_ENTITY_TOO_LARGE: "413 Request Entity Too Large",
    HTTPStatus.INTERNAL_SERVER_ERROR: "500 Internal Server Error",
}


class ApiError(RegistryError):
    """A refusal in GitLab's words: *answer* is the whole body."""

    def __init__(
        self,
        status: int,
        answer: Mapping[str, Any],
        *,
        headers: Mapping[str, str] | None = None,
        why: str | None = None,
    ) -> None:
        code = _CODES.get(status, ErrorCode.UNSUPPORTED)
        message = str(answer.get("message") or answer["error"])
        super().__init__(code, message, status=status, headers=headers, why=why)
        self.answer = answer


def said(status: int, message: object, *, why: str | None = None) -> ApiError:
    """A refusal by the application: ``{"message": …}``."""
    return ApiError(status, {"message": message}, why=why)


def invalid(error: str) -> ApiError:
    """Parameters that are no good: ``{"error": …}``, as the framework below GitLab's API says it."""
    return ApiError(HTTPStatus.BAD_REQUEST, {"error": error})


def malformed() -> ApiError:
    """A request with something in it that is no text."""
    return said(HTTPStatus.BAD_REQUEST, "400 Bad request")


def sound(text: str) -> str:
    """*text*, if every database can hold it. Raises ApiError 400, as GitLab does of malformed texts."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise malformed() from error
    if "\0" in text:
        raise malformed()
    return text


def unauthorized(why: str | None = None) -> ApiError:
    """Nobody, or a credential that is no good, where somebody is needed."""
    return said(HTTPStatus.UNAUTHORIZED, "401 Unauthorized", why=why)


def forbidden(message: str = "403 Forbidden") -> ApiError:
    """Somebody who may know of the thing and not do this."""
    return said(HTTPStatus.FORBIDDEN, message)


def missing(message: str = NOT_FOUND) -> ApiError:
    """What is not there, or is none of the caller's business."""
    return said(HTTPStatus.NOT_FOUND, message)


def insufficient_scope(enough: str) -> ApiError:
    """A good token that opens other things: *enough* are the scopes, one of which it needs (semantics 13)."""
    description = "The request requires higher privileges than provided by the access token."
    answer = {"error": "insufficient_scope", "error_description": description, "scope": enough}
    return ApiError(HTTPStatus.FORBIDDEN, answer, why=f"the token's scopes are none of: {enough}")


def trouble(error: RegistryError) -> RegistryError:
    """What GitLab says where the registry can't be asked for tags or sizes now, as *error* says (trap 31).

    A failure that is the gateway's own keeps its kind, which the log tells apart, and is rendered in the same words.
    """
    if error.message == ErrorCode.UNAVAILABLE.message:
        return error
    headers = {name: value for name, value in error.headers.items() if name == "Retry-After"} or _RETRY
    return ApiError(HTTPStatus.SERVICE_UNAVAILABLE, {"message": TROUBLE}, headers=headers, why=error.why or str(error))


def rendered(error: RegistryError) -> web.Response:
    """Any refusal or failure, in GitLab's form."""
    answer = error.answer if isinstance(error, ApiError) else _words(error)
    return web.Response(status=error.status, body=json.dumps(answer).encode(), headers={**error.headers, **_HEADERS})


def _words(error: RegistryError) -> Mapping[str, Any]:
    """What GitLab says where the core says no: of routes, bodies, vetoes and failures."""
    if error.status in _FRAMEWORK:
        return {"error": _FRAMEWORK[error.status]}
    if error.status == HTTPStatus.FORBIDDEN:
        return {"message": f"403 Forbidden - {error.message}"}
    if error.message == ErrorCode.UNAVAILABLE.message:
        return {"message": TROUBLE}
    return {"message": _WORDS.get(error.status, error.message)}
