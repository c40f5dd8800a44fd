"""How the repository's files lie."""

from __future__ import annotations

from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
CHECKED = ("gateway", "plugins", "tests", "config", "docs", "deploy", "benchmarks", ".ci")
TOP = ("Makefile", "pyproject.toml", "README.md", "CONTRIBUTING.md", "CHANGELOG.md", "constraints.txt")
# Put together, so that this file does not name them either.
HOSTS = [".".join(parts) for parts in (("pypi", "org"), ("pythonhosted", "org"), ("npmjs", "org"), ("crates", "io"))]


def _folders() -> list[Path]:
    return sorted({path.parent for path in (ROOT / "tests").rglob("*.py")})


def _texts() -> list[Path]:
    found = [path for folder in CHECKED for path in (ROOT / folder).rglob("*") if path.is_file()]
    return [path for path in found if "__pycache__" not in path.parts] + [ROOT / name for name in TOP]


def test_every_folder_of_tests_is_a_package() -> None:
    """Two tests of one name in two folders never hide each other."""
    assert [folder for folder in _folders() if not (folder / "__init__.py").exists()] == []


@pytest.mark.parametrize("host", HOSTS)
def test_no_file_names_a_package_registry(host: str) -> None:
    """Where packages come from is the machine's business."""
    naming = [path for path in _texts() if path.exists() and host.encode() in path.read_bytes()]
    assert naming == []
