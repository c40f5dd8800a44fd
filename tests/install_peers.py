"""Install the Debian packages whose programs the tests (or, with --bench, the benchmarks) talk to.

Runs on the system's Python with nothing but the standard library. Where all is there already, it only looks.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

SEARCHED = os.pathsep.join([os.environ.get("PATH", os.defpath), "/usr/local/sbin", "/usr/sbin", "/sbin"])
POSTGRESQL = "lib/postgresql/*/bin/postgres"


@dataclass(frozen=True)
class Peer:
    """A program, and the packages that may hold it, the preferred first: distributions cut them differently."""

    program: str
    packages: tuple[str, ...]

    def installed(self) -> bool:
        """Tell whether the program is there."""
        if self.program == "postgres":
            return any(Path("/usr").glob(POSTGRESQL))
        return shutil.which(self.program, path=SEARCHED) is not None

    def package(self) -> str:
        """Name the first of its packages that this system's package lists know."""
        return next((name for name in self.packages if known(name)), self.packages[-1])


REGISTRY = Peer("docker-registry", ("docker-registry",))
NGINX = Peer("nginx", ("nginx",))
REDIS = Peer("redis-server", ("redis-server", "redis"))
FOR_TESTS = (
    REGISTRY,
    NGINX,
    Peer("skopeo", ("skopeo",)),
    Peer("podman", ("podman",)),
    Peer("buildah", ("buildah",)),
    Peer("runc", ("runc",)),
    Peer("dockerd", ("docker.io",)),
    Peer("docker", ("docker-cli", "docker.io")),
    Peer("postgres", ("postgresql",)),
    REDIS,
)
FOR_BENCHMARKS = (REGISTRY, NGINX, REDIS, Peer("wrk", ("wrk",)))

# Packages of servers start them; the answer 101 of this file forbids it (an existing one is left as it is).
AS_ROOT = """
set -e
policy=/usr/sbin/policy-rc.d
if [ ! -e "$policy" ]; then
  trap 'rm -f "$policy"' EXIT
  printf '#!/bin/sh\\nexit 101\\n' > "$policy"
  chmod 755 "$policy"
fi
apt-get install --yes --quiet --no-install-recommends "$@"
"""


def known(package: str) -> bool:
    """Tell whether the package lists have a version of this package to install."""
    found = subprocess.run(["apt-cache", "show", package], capture_output=True, check=False)
    return found.returncode == 0


def root() -> list[str] | None:
    """Give the words that run a command as root, or None where we may not."""
    if os.geteuid() == 0:
        return []
    if shutil.which("sudo") and not subprocess.run(["sudo", "-n", "true"], capture_output=True, check=False).returncode:
        return ["sudo", "-n"]
    return None


def install(missing: list[Peer]) -> str | None:
    """Install what holds the missing programs; the answer is what stood in the way."""
    if shutil.which("apt-get") is None:
        return "this system has no apt-get"
    as_root = root()
    if as_root is None:
        return "only root may install packages, and sudo asks for a password"
    quiet = [*as_root, "env", "DEBIAN_FRONTEND=noninteractive"]
    if subprocess.run([*quiet, "apt-get", "update", "--quiet"], stdout=sys.stderr, check=False).returncode:
        return "apt-get update failed"
    packages = sorted({peer.package() for peer in missing})
    if subprocess.run([*quiet, "sh", "-c", AS_ROOT, "sh", *packages], stdout=sys.stderr, check=False).returncode:
        return "apt-get install failed"
    return None


def main(arguments: list[str]) -> int:
    """Make the peers be there, or say exactly which are not and how to get them."""
    peers = FOR_BENCHMARKS if "--bench" in arguments else FOR_TESTS
    missing = [peer for peer in peers if not peer.installed()]
    if not missing:
        return 0
    obstacle = install(missing)
    missing = [peer for peer in missing if not peer.installed()]
    if not missing:
        return 0
    packages = " ".join(sorted({peer.package() for peer in missing}))
    sys.stderr.write(
        f"Missing test peers: {', '.join(peer.program for peer in missing)} ({obstacle or 'not in their packages'}).\n"
        f"Install them with: sudo apt-get update && sudo apt-get install --yes --no-install-recommends {packages}\n"
    )
    if os.environ.get("CI") == "true":
        return 1
    sys.stderr.write("Going on: what needs them is skipped.\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
