"""HTTP as it stands on the wire: no redirects, no retries, no helpful client in between."""

from __future__ import annotations

import base64
import http.client
import json
import ssl
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import urlencode, urljoin, urlsplit

from tests.support.images import DOCKER_LIST, DOCKER_MANIFEST, INDEX, MANIFEST, Blob, Image

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from email.message import Message
    from pathlib import Path


SERVICE = "container_registry"
ACCEPT = f"{MANIFEST}, {INDEX}, {DOCKER_MANIFEST}, {DOCKER_LIST}"
"""What every client of today takes for a manifest."""


class Account(NamedTuple):
    """A username and the secret that goes with it."""

    username: str
    password: str


Credential = Account | str | None
"""Basic, a Bearer token, or nothing."""


def authorization(credential: Credential) -> dict[str, str]:
    """Make the header that carries a credential."""
    if credential is None:
        return {}
    if isinstance(credential, str):
        return {"Authorization": f"Bearer {credential}"}
    pair = base64.b64encode(f"{credential.username}:{credential.password}".encode()).decode()
    return {"Authorization": f"Basic {pair}"}


@dataclass(frozen=True)
class Answer:
    """A response that was read to its end."""

    url: str
    status: int
    headers: Message[str, str]
    body: bytes

    def json(self) -> Any:
        """Parse the body."""
        return json.loads(self.body)

    def header(self, name: str) -> str:
        """Give a header that must be there."""
        value = self.headers[name]
        assert value is not None, f"{self.status} without {name}: {self.body[:500]!r}"
        return str(value)

    @property
    def location(self) -> str:
        """The Location, resolved against the request as every client does."""
        return urljoin(self.url, self.header("Location"))

    def expect(self, status: int) -> Answer:
        """Hold it to a status, and show the body where it differs."""
        assert self.status == status, f"{self.url} answered {self.status}, not {status}: {self.body[:1000]!r}"
        return self


class Wire:
    """One caller's requests to one server, each on a connection of its own."""

    def __init__(self, base_url: str, credential: Credential = None, *, certificate: Path | None = None) -> None:
        self.base_url = base_url
        self.credential = credential
        self._trust = ssl.create_default_context(cafile=str(certificate)) if certificate else None

    def acting_as(self, credential: Credential) -> Wire:
        """Give the same server to another caller."""
        other = Wire(self.base_url, credential)
        other._trust = self._trust
        return other

    def connect(self) -> http.client.HTTPConnection:
        """Make a connection that whoever asked closes."""
        address = urlsplit(self.base_url).netloc
        if self._trust is not None:
            return http.client.HTTPSConnection(address, timeout=60, context=self._trust)
        return http.client.HTTPConnection(address, timeout=60)

    def absolute(self, path: str) -> str:
        """Put a path behind the base; a full address stays as it is."""
        return path if "://" in path else self.base_url + path

    def send(
        self,
        method: str,
        path: str,
        body: bytes | Iterable[bytes] | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Answer:
        """Send one request and read its answer."""
        url = self.absolute(path)
        target = url.removeprefix(f"{urlsplit(url).scheme}://{urlsplit(url).netloc}") or "/"
        connection = self.connect()
        try:
            connection.request(method, target, body, {**authorization(self.credential), **(headers or {})})
            response = connection.getresponse()
            return Answer(url, response.status, response.headers, response.read())
        finally:
            connection.close()

    def get(self, path: str, **headers: str) -> Answer:
        """GET a path."""
        return self.send("GET", path, headers=headers)

    def token(self, *scopes: str) -> str:
        """Ask the token endpoint, as this caller, for a Bearer token."""
        query = urlencode([("service", SERVICE), *(("scope", scope) for scope in scopes)])
        token = self.get(f"/jwt/auth?{query}").expect(200).json()["token"]
        assert isinstance(token, str)
        return token

    def start_upload(self, repository: str) -> str:
        """Open an upload and give its Location."""
        return self.send("POST", f"/v2/{repository}/blobs/uploads/").expect(202).location

    def append(self, location: str, chunk: bytes, *, start: int = 0) -> Answer:
        """Send the next chunk of an upload."""
        return self.send(
            "PATCH",
            location,
            chunk,
            {"Content-Type": "application/octet-stream", "Content-Range": f"{start}-{start + len(chunk) - 1}"},
        )

    def close_upload(self, location: str, digest: str, rest: bytes = b"") -> Answer:
        """Send what is left and say what all of it must hash to."""
        joint = "&" if urlsplit(location).query else "?"
        return self.send(
            "PUT",
            f"{location}{joint}{urlencode({'digest': digest})}",
            rest,
            {"Content-Type": "application/octet-stream"},
        )

    def push_blob(self, repository: str, blob: Blob) -> None:
        """Upload a blob in one piece."""
        self.close_upload(self.start_upload(repository), blob.digest, blob.content).expect(201)

    def manifest(self, repository: str, reference: str) -> Answer:
        """GET a manifest by tag or digest, as whatever it is."""
        return self.get(f"/v2/{repository}/manifests/{reference}", Accept=ACCEPT)

    def put_manifest(self, repository: str, reference: str, manifest: Blob) -> Answer:
        """Put a manifest under a tag or digest."""
        return self.send(
            "PUT", f"/v2/{repository}/manifests/{reference}", manifest.content, {"Content-Type": manifest.media_type}
        )

    def push_image(self, repository: str, tag: str, image: Image) -> None:
        """Upload an image's blobs, then its manifest under a tag."""
        for blob in (image.config, *image.layers):
            self.push_blob(repository, blob)
        self.put_manifest(repository, tag, image.manifest).expect(201)
