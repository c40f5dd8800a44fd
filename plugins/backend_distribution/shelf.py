"""The folder of a blob cache: which files are there, and that together they stay within its size. Calls may block.

::

    <algorithm>/<first two of the hash>/<hash>    whole, verified, never changed; its mtime says when it was last wanted
    partial/<algorithm>-<hash>-<size>             on its way; who holds the lock on it writes it
    total                                         bytes that all of these may come to; changed under its lock

All workers share it. The total is too large after a crash, never too small, and is counted anew before it matters.
"""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from gateway.plugins import Digest

_FRESH: Final = 60.0
"""Seconds within which a use is not noted again, and an abandoned file is left to whoever may go on with it."""
_FREE_SHARE: Final = 4
"""A blob takes at most this fraction of the free space: the disk may serve others too."""
_SLACK: Final = 20
"""This fraction of the size is freed beyond what is needed, so that the files are not listed for every blob."""
_DIGITS: Final = 20
_WRITING: Final = os.O_RDWR | os.O_APPEND | os.O_CLOEXEC


@dataclass(frozen=True, slots=True)
class _File:
    """A file that takes *size* bytes of room, last *used* then."""

    path: Path
    size: int
    used: float
    partial: bool


class Shelf:
    """The files below *path*, of at most *size* bytes together. Whatever the disk doesn't do is an OSError."""

    def __init__(self, path: Path, size: int) -> None:
        self.size = size
        self._path = path
        self._partials = path / "partial"

    def open(self) -> None:
        """Make the folders, remove what crashed workers left, and count."""
        with self._total_locked() as total:
            self._count(total, need=0, idle=0)

    def kept(self, digest: Digest, size: int) -> int | None:
        """A descriptor of the kept blob, whose use is noted; None where there is none of *size* bytes."""
        try:
            descriptor = os.open(self._blob(digest), os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            return None
        state = os.fstat(descriptor)
        if state.st_size != size:
            os.close(descriptor)
            return None
        if time.time() - state.st_mtime > _FRESH:
            with suppress(OSError):
                os.utime(descriptor)
        return descriptor

    def claim(self, digest: Digest, size: int) -> int | None:
        """A descriptor of the blob's file, made anew if there is none and there is room for it; else None."""
        partial = self._partial(digest, size)
        with self._total_locked() as total:
            with suppress(FileNotFoundError):
                return os.open(partial, _WRITING)
            # In this order: its writer may rename it at any time.
            kept = self.kept(digest, size)
            if kept is not None:
                return kept
            # One of another size may be there: it is wrong, or the size is.
            self._forget(total, digest)
            space = os.statvfs(self._partials)
            if size > space.f_bavail * space.f_frsize // _FREE_SHARE or not self._reserve(total, size):
                return None
            return os.open(partial, _WRITING | os.O_CREAT | os.O_EXCL, 0o600)

    def partial_size(self, digest: Digest, size: int) -> int:
        """How many bytes of the blob have come."""
        try:
            return self._partial(digest, size).stat().st_size
        except OSError:
            return 0

    def is_partial(self, descriptor: int, digest: Digest, size: int) -> bool:
        """Whether *descriptor* is the blob's partial file, rather than a kept or removed one."""
        try:
            return os.path.samestat(self._partial(digest, size).stat(), os.fstat(descriptor))
        except OSError:
            return False

    def keep(self, descriptor: int, digest: Digest, size: int) -> None:
        """Make a verified file durable, and then known. What could not be flushed must go: to try again proves nothing.

        Its writer calls this, as `drop`.
        """
        os.fsync(descriptor)
        blob = self._blob(digest)
        # Their own names are not flushed: a cache may lose them with the power.
        for folder in (blob.parent.parent, blob.parent):
            folder.mkdir(mode=0o700, exist_ok=True)
        self._partial(digest, size).rename(blob)
        _flush(blob.parent)

    def drop(self, digest: Digest, size: int) -> None:
        """Remove a partial file."""
        with self._total_locked() as total, suppress(FileNotFoundError):
            self._partial(digest, size).unlink()
            _add(total, -size)

    def forget(self, digest: Digest) -> None:
        """Remove a kept blob; who has it open reads on."""
        with self._total_locked() as total:
            self._forget(total, digest)

    def trim(self) -> None:
        """Count, remove what was not wanted for longest down to the size, and what nobody goes on with."""
        with self._total_locked() as total:
            self._count(total, need=0, idle=_FRESH)

    # -- how ------------------------------------------------------------------------------------------

    def _blob(self, digest: Digest) -> Path:
        return self._path / digest.algorithm / digest.encoded[:2] / digest.encoded

    def _partial(self, digest: Digest, size: int) -> Path:
        return self._partials / f"{digest.algorithm}-{digest.encoded}-{size}"

    @contextmanager
    def _total_locked(self) -> Iterator[int]:
        # Each by itself: the mode is not that of parents.
        self._path.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._partials.mkdir(mode=0o700, exist_ok=True)
        descriptor = os.open(self._path / "total", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield descriptor
        finally:
            os.close(descriptor)

    def _forget(self, total: int, digest: Digest) -> None:
        blob = self._blob(digest)
        with suppress(FileNotFoundError):
            size = blob.stat().st_size
            blob.unlink()
            _add(total, -size)

    def _reserve(self, total: int, need: int) -> bool:
        """Count *need* bytes before their file is there; False where there can't be room for them."""
        known = _read(total)
        if known is None or known + need > self.size:
            known = self._count(total, need, _FRESH)
        if known + need > self.size:
            return False
        _add(total, need)
        return True

    def _count(self, total: int, need: int, idle: float) -> int:
        """Remove partial files that nobody wrote to for *idle* seconds, and the oldest until there are *need* bytes."""
        files = sorted(self._files(), key=lambda file: file.used)
        known = sum(file.size for file in files)
        since, limit = time.time() - idle, self.size - need
        busy = sum(file.size for file in files if file.partial and file.used >= since)
        # Where what is on its way takes the room, nothing is gained by removing the rest.
        room = limit - self.size // _SLACK if known > limit >= busy else known
        for file in files:
            if (known > room or (file.partial and file.used < since)) and _remove(file):
                known -= file.size
        _write(total, known)
        return known

    def _files(self) -> Iterator[_File]:
        """Every file; a partial one counts as what it will be. First those, or one would be missed that is kept now."""
        seen: set[int] = set()
        for folder in (self._partials, *_entries(self._path / "sha256"), *_entries(self._path / "sha512")):
            partial = folder == self._partials
            for path in _entries(folder):
                with suppress(FileNotFoundError):
                    state = path.lstat()
                    if state.st_ino not in seen:
                        seen.add(state.st_ino)
                        announced = path.name.rpartition("-")[2] if partial else ""
                        size = int(announced) if announced.isdecimal() else state.st_size
                        yield _File(path, size, state.st_mtime, partial)


def locked(descriptor: int) -> bool:
    """Lock a file unless somebody else has."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _remove(file: _File) -> bool:
    """Remove a file; not a partial one that somebody writes."""
    try:
        if not file.partial:
            file.path.unlink()
            return True
        descriptor = os.open(file.path, os.O_RDWR | os.O_CLOEXEC)
        try:
            if free := locked(descriptor):
                file.path.unlink()
            return free
        finally:
            os.close(descriptor)
    except OSError:
        # Gone already, or nothing of ours.
        return False


def _read(total: int) -> int | None:
    """The total, or None where it must be counted."""
    text = os.pread(total, _DIGITS, 0)
    return int(text) if len(text) == _DIGITS and text.isdigit() else None


def _write(total: int, known: int) -> None:
    os.pwrite(total, b"%0*d" % (_DIGITS, max(0, known)), 0)


def _add(total: int, count: int) -> None:
    known = _read(total)
    if known is not None:
        _write(total, known + count)


def _entries(folder: Path) -> list[Path]:
    try:
        return list(folder.iterdir())
    except (FileNotFoundError, NotADirectoryError):
        return []


def _flush(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
