"""What a CI job runs: it pushes an image and pulls it again, with Python's own library and GitLab's variables alone.

The argument is another name for the image than the job's own.
"""

from __future__ import annotations

import base64
import gzip
import hashlib
import io
import json
import os
import re
import sys
import tarfile
import urllib.parse
import urllib.request
from http import HTTPStatus
from typing import NamedTuple
from urllib.error import HTTPError

CONFIG = "application/vnd.oci.image.config.v1+json"
LAYER = "application/vnd.oci.image.layer.v1.tar+gzip"
MANIFEST = "application/vnd.oci.image.manifest.v1+json"


class Answer(NamedTuple):
    """A response that was read to its end."""

    status: int
    headers: dict[str, str]
    body: bytes


class Registry:
    """Asks for a token whenever the registry wants one."""

    def __init__(self, host: str, user: str, password: str) -> None:
        self._base = f"http://{host}"
        self._login = "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()
        self._token = ""

    def ask(self, status: int, method: str, path: str, body: bytes | None = None, **headers: str) -> Answer:
        """Send a request and insist on a status."""
        url = urllib.parse.urljoin(self._base, path)
        answer = self._send(method, url, body, {**headers, "Authorization": f"Bearer {self._token}"})
        if answer.status == HTTPStatus.UNAUTHORIZED:
            self._token = self._fetch_token(answer.headers["www-authenticate"])
            answer = self._send(method, url, body, {**headers, "Authorization": f"Bearer {self._token}"})
        return _insist(status, answer)

    def _fetch_token(self, challenge: str) -> str:
        fields = dict(re.findall(r'(\w+)="([^"]*)"', challenge))
        query = urllib.parse.urlencode({name: fields[name] for name in ("service", "scope") if name in fields})
        answer = self._send("GET", f"{fields['realm']}?{query}", None, {"Authorization": self._login})
        return str(json.loads(_insist(HTTPStatus.OK, answer).body)["token"])

    def _send(self, method: str, url: str, body: bytes | None, headers: dict[str, str]) -> Answer:
        spelt = {name.replace("_", "-"): value for name, value in headers.items()}
        request = urllib.request.Request(url, body, spelt, method=method)  # noqa: S310 - the registry's own address
        try:
            with urllib.request.urlopen(request, timeout=60) as response:  # noqa: S310 - likewise
                return Answer(response.status, _lower(response.headers), response.read())
        except HTTPError as error:
            with error:
                return Answer(error.code, _lower(error.headers), error.read())


def _lower(headers: object) -> dict[str, str]:
    return {name.lower(): value for name, value in headers.items()}  # type: ignore[attr-defined]


def _insist(status: int, answer: Answer) -> Answer:
    if answer.status != status:
        sys.exit(f"{answer.status} {json.loads(answer.body)['errors'][0]['message']}")
    return answer


def sha256(content: bytes) -> str:
    """Name bytes as registries do."""
    return f"sha256:{hashlib.sha256(content).hexdigest()}"


def layer(name: str, content: bytes) -> bytes:
    """Make an archive of one file."""
    output = io.BytesIO()
    with tarfile.open(fileobj=output, mode="w") as tar:
        entry = tarfile.TarInfo(name)
        entry.size = len(content)
        tar.addfile(entry, io.BytesIO(content))
    return output.getvalue()


def push(registry: Registry, name: str, tag: str, commit: str) -> bytes:
    """Build an image that holds the commit, push it, and give its manifest."""
    tar = layer("commit", commit.encode())
    config = json.dumps(
        {"architecture": "amd64", "os": "linux", "rootfs": {"type": "layers", "diff_ids": [sha256(tar)]}}
    ).encode()
    blobs = {CONFIG: config, LAYER: gzip.compress(tar)}
    for blob in blobs.values():
        location = registry.ask(202, "POST", f"/v2/{name}/blobs/uploads/", b"").headers["location"]
        joint = "&" if "?" in location else "?"
        where = f"{location}{joint}{urllib.parse.urlencode({'digest': sha256(blob)})}"
        registry.ask(201, "PUT", where, blob, Content_Type="application/octet-stream")
    described = [{"mediaType": kind, "digest": sha256(blob), "size": len(blob)} for kind, blob in blobs.items()]
    manifest = json.dumps(
        {"schemaVersion": 2, "mediaType": MANIFEST, "config": described[0], "layers": described[1:]}
    ).encode()
    registry.ask(201, "PUT", f"/v2/{name}/manifests/{tag}", manifest, Content_Type=MANIFEST)
    return manifest


def pull(registry: Registry, name: str, tag: str) -> tuple[bytes, str]:
    """Pull an image by its tag: its manifest, and the commit that it holds."""
    manifest = registry.ask(200, "GET", f"/v2/{name}/manifests/{tag}", Accept=MANIFEST).body
    digest = json.loads(manifest)["layers"][0]["digest"]
    content = registry.ask(200, "GET", f"/v2/{name}/blobs/{digest}").body
    with tarfile.open(fileobj=io.BytesIO(content)) as tar:
        commit = tar.extractfile("commit")
        return manifest, commit.read().decode() if commit else ""


def main() -> None:
    """Push, pull, compare, and say the digest."""
    variables = os.environ
    registry = Registry(variables["CI_REGISTRY"], variables["CI_REGISTRY_USER"], variables["CI_REGISTRY_PASSWORD"])
    image = sys.argv[1] if len(sys.argv) > 1 else variables["CI_REGISTRY_IMAGE"]
    name = image.removeprefix(f"{variables['CI_REGISTRY']}/")
    tag, commit = variables["CI_COMMIT_REF_SLUG"], variables["CI_COMMIT_SHA"]
    pushed = push(registry, name, tag, commit)
    if pull(registry, name, tag) != (pushed, commit):
        sys.exit("what was pulled is not what was pushed")
    sys.stdout.write(f"{sha256(pushed)}\n")


if __name__ == "__main__":
    main()
