"""podman, buildah and skopeo with their state, logins and settings in a folder of their own."""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING

from tests.support.peers import Finished, run

if TYPE_CHECKING:
    from pathlib import Path

    from tests.support.wire import Account

# runc and cgroupfs: crun and systemd fail on machines with both cgroup versions mounted.
CONTAINERS = """
[containers]
default_ulimits = ["nofile=1024:1024", "nproc=1024:1024"]
[engine]
runtime = "runc"
cgroup_manager = "cgroupfs"
events_logger = "none"
static_dir = "{folder}/static"
tmp_dir = "{folder}/tmp"
volume_path = "{folder}/volumes"
"""
STORAGE = """
[storage]
driver = "vfs"
graphroot = "{folder}/storage"
runroot = "{folder}/run"
"""
PLAIN_HTTP = """
[[registry]]
location = "{host}"
insecure = true
"""


class Containers:
    """The three tools of one person."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._logins = folder / "auth.json"
        self._registries = folder / "registries.conf"
        self._logins.write_text("{}")
        self._registries.write_text("")
        (folder / "containers.conf").write_text(CONTAINERS.format(folder=folder))
        (folder / "storage.conf").write_text(STORAGE.format(folder=folder))
        self.environment = {
            **os.environ,
            "CONTAINERS_CONF": str(folder / "containers.conf"),
            "CONTAINERS_REGISTRIES_CONF": str(self._registries),
            "CONTAINERS_STORAGE_CONF": str(folder / "storage.conf"),
            "REGISTRY_AUTH_FILE": str(self._logins),
        }

    def allow_http(self, host: str) -> None:
        """Let all three talk plain HTTP to a `host:port`."""
        with self._registries.open("a") as settings:
            settings.write(PLAIN_HTTP.format(host=host))

    @property
    def logins(self) -> dict[str, object]:
        """The hosts that somebody is logged in to."""
        found = json.loads(self._logins.read_text()).get("auths", {})
        assert isinstance(found, dict)
        return found

    def skopeo(self, *words: str | Path, fails: bool = False) -> Finished:
        """Run `skopeo` with these words."""
        # It alone of the three does not read CONTAINERS_REGISTRIES_CONF.
        return self._run("skopeo", "--registries-conf", self._registries, *words, fails=fails)

    def podman(self, *words: str | Path, fails: bool = False) -> Finished:
        """Run `podman` with these words."""
        return self._run("podman", *words, fails=fails)

    def buildah(self, *words: str | Path, fails: bool = False) -> Finished:
        """Run `buildah` with these words."""
        return self._run("buildah", *words, fails=fails)

    def login(
        self,
        host: str,
        account: Account,
        *,
        tool: str = "skopeo",
        certificates: Path | None = None,
        fails: bool = False,
    ) -> Finished:
        """Log in with one of the tools (the login counts for all three)."""
        # For a login, two of the three do not ask registries.conf.
        trust = ("--tls-verify=false",) if certificates is None else ("--cert-dir", certificates)
        words = ("login", *trust, "--username", account.username, "--password-stdin", host)
        return self._run(tool, *words, stdin=account.password, fails=fails)

    def _run(self, *words: str | Path, stdin: str = "", fails: bool = False) -> Finished:
        return run(words, environment=self.environment, stdin=stdin, fails=fails)
