"""What a CI job runs that leaves the work to skopeo: it pushes an image, and reads which one the registry then has."""

from __future__ import annotations

import os
import subprocess
import sys


def main() -> None:
    """Push the layout that the argument names, and say the digest."""
    login = f"{os.environ['CI_REGISTRY_USER']}:{os.environ['CI_JOB_TOKEN']}"
    target = f"docker://{os.environ['CI_REGISTRY_IMAGE']}:{os.environ['CI_COMMIT_REF_SLUG']}-skopeo"
    subprocess.run(
        ["skopeo", "copy", "--dest-tls-verify=false", "--dest-creds", login, sys.argv[1], target], check=True
    )
    subprocess.run(
        ["skopeo", "inspect", "--tls-verify=false", "--creds", login, "--format", "{{.Digest}}", target], check=True
    )


if __name__ == "__main__":
    main()
