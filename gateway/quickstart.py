"""What a first start needs and a newcomer should not have to write: a directory, a root token, an image to push."""

from __future__ import annotations

import gzip
import io
import json
import os
import secrets
import tarfile
from hashlib import sha256
from pathlib import Path
from typing import Final

from gateway.config import Config
from gateway.errors import ConfigError
from gateway.oci import Digest, MediaType

_DIRECTORY: Final = """\
# Who may do what. Re-read whenever it changes; README.md says more.
users:
  - {{username: root, admin: true}}
groups:
  - {{path: demo, visibility: public}}
projects:
  - {{path: demo/hello, visibility: public}}
tokens:
  - {{kind: personal_access_token, user: root, token_sha256: {digest}, scopes: [api]}}
"""

_LINES: Final = """\
Registry Gateway: http://{host}   (data in {data})

Log in as root, whose token is in {token}:
  docker login {host} -u root --password-stdin < {token}
  skopeo login --tls-verify=false -u root --password-stdin {host} < {token}

Push an image that is made already, and pull it back:
  skopeo copy --dest-tls-verify=false oci:{image}:latest docker://{host}/demo/hello:latest
  docker pull {host}/demo/hello:latest

Push one of your own (its project must stand in {directory}):
  docker tag YOUR-IMAGE {host}/demo/hello/mine:1
  docker push {host}/demo/hello/mine:1

"""


def prepare(config: Config) -> str:
    """Make what is missing, never touching what is there; returns the lines to print.

    Raises ConfigError where the configuration has no ``auth_local``, or a file can't be written.
    """
    item = next((item for item in config.plugins if item.use == "auth_local"), None)
    if item is None:
        raise ConfigError(
            ["plugins: init writes the directory of `auth_local`, and this configuration does not use it"]
        )
    directory = Path(str(item.options.get("directory", "config/directory.yaml")))
    data = directory.parent
    token, image = data / "root-token", data / "hello"
    try:
        data.mkdir(parents=True, exist_ok=True)
        if not directory.exists():
            secret = f"glpat-{secrets.token_urlsafe(24)}"
            _write_secret(token, f"{secret}\n")
            _write_secret(directory, _DIRECTORY.format(digest=sha256(secret.encode()).hexdigest()))
        if not image.exists():
            _write_image(image)
    except OSError as error:
        raise ConfigError([f"{error.filename}: cannot write it: {error.strerror}"]) from error
    return _LINES.format(host=config.server.listen, data=data, token=token, image=image, directory=directory)


def _write_secret(path: Path, text: str) -> None:
    path.unlink(missing_ok=True)
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8") as file:
        file.write(text)


def _write_image(folder: Path) -> None:
    """An OCI image layout with one image of one layer of one file (image specification, "Image Layout")."""
    archive = io.BytesIO()
    greeting = b"Hello from Registry Gateway.\n"
    with tarfile.open(fileobj=archive, mode="w") as tar:
        entry = tarfile.TarInfo("hello.txt")
        entry.size = len(greeting)
        tar.addfile(entry, io.BytesIO(greeting))
    layer = gzip.compress(archive.getvalue(), mtime=0)
    config = json.dumps(
        {
            "architecture": "amd64",
            "os": "linux",
            "config": {},
            "rootfs": {"type": "layers", "diff_ids": [Digest.of(archive.getvalue())]},
        }
    ).encode()
    manifest = json.dumps(
        {
            "schemaVersion": 2,
            "mediaType": MediaType.OCI_MANIFEST,
            "config": _descriptor("application/vnd.oci.image.config.v1+json", config),
            "layers": [_descriptor("application/vnd.oci.image.layer.v1.tar+gzip", layer)],
        }
    ).encode()
    named = _descriptor(MediaType.OCI_MANIFEST, manifest) | {
        "annotations": {"org.opencontainers.image.ref.name": "latest"}
    }
    blobs = folder / "blobs" / "sha256"
    blobs.mkdir(parents=True)
    for content in (layer, config, manifest):
        (blobs / Digest.of(content).encoded).write_bytes(content)
    (folder / "oci-layout").write_text('{"imageLayoutVersion": "1.0.0"}', encoding="utf-8")
    (folder / "index.json").write_text(json.dumps({"schemaVersion": 2, "manifests": [named]}), encoding="utf-8")


def _descriptor(media_type: str, content: bytes) -> dict[str, object]:
    return {"mediaType": media_type, "digest": Digest.of(content), "size": len(content)}
