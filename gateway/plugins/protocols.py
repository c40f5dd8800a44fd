"""Things with a life that plugins give to the core (a backend), and that the core lends to plugins (services)."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol, runtime_checkable

from gateway.oci import ByteRange, Descriptor, Digest, ManifestDetails, Reference, RepositoryName, Tag
from gateway.plugins.plans import Applied, Cleanup, CleanupRules, Plan

if TYPE_CHECKING:
    from gateway.plugins.chain import Answer
    from gateway.plugins.types import (
        Access,
        ApiAnswer,
        ApiCall,
        Client,
        Credential,
        ExpirationPolicy,
        Group,
        Identity,
        Profile,
        Project,
        Refusal,
        RegistryLevel,
        Standing,
        TagPage,
        TagQuery,
        Unknown,
    )

Chunks = AsyncIterator[bytes]
"""A body as it comes in: chunks of any size, each to be used before the next is asked for."""


class UploadUnknownError(LookupError):
    """The upload was finished, cancelled, has expired or never was."""


class UploadBusyError(RuntimeError):
    """Another request is writing to the same upload."""


class OffsetError(ValueError):
    """The bytes that came do not continue the upload. *offset* is how many it holds."""

    def __init__(self, offset: int) -> None:
        super().__init__(f"the upload holds {offset} bytes")
        self.offset = offset


class DigestMismatchError(ValueError):
    """The bytes are not those of the digest."""


class MissingContentError(LookupError):
    """A manifest requires blobs or manifests that its repository doesn't have: *digests*."""

    def __init__(self, digests: Sequence[Digest]) -> None:
        super().__init__(f"{len(digests)} missing, such as {digests[0]}")
        self.digests = tuple(digests)


class StorageFullError(OSError):
    """There is no room for the bytes."""


class OpenBlob(Protocol):
    """A blob that is open for reading. *fileno* is a file descriptor that ``sendfile`` can read from, or None."""

    @property
    def size(self) -> int:
        """Bytes of the whole blob."""
        ...

    @property
    def fileno(self) -> int | None:
        """A descriptor of the whole blob as a regular file, valid until the blob is closed."""
        ...

    @property
    def location(self) -> str | None:
        """A URL that serves the whole blob to whoever holds it, where the client shall be sent there; else None."""
        ...

    def read(self, part: ByteRange) -> AsyncGenerator[bytes, None]:
        """The bytes of *part*, in chunks; raises OSError where they can't all be had. Closing it ends the transfer.

        Before the first chunk a RegistryError may say why there is none.
        """
        ...


@dataclass(frozen=True, slots=True)
class Progress:
    """Where an upload stands: the backend's own word for it (sealed into the Location), and bytes held."""

    state: str
    offset: int


@runtime_checkable
class Backend(Protocol):
    """Stores and fetches blobs. Speaks values, never HTTP; what may be done was decided before it is asked.

    *metadata* says who knows what exists: ``truth`` (the core's tables decide, the backend only holds bytes) or
    ``index`` (the backend's own answers decide and the core records afterwards; such a backend is a ManifestStore too).
    """

    metadata: Literal["truth", "index"]

    def open_blob(self, name: RepositoryName, digest: Digest) -> AbstractAsyncContextManager[OpenBlob]:
        """Open a blob for reading. Raises LookupError where there is none."""
        ...

    async def begin_upload(self, name: RepositoryName, upload: str) -> Progress:
        """Begin the upload *upload*, an id that the core made; nothing is readable until it is finished."""
        ...

    async def write_upload(
        self, name: RepositoryName, upload: str, progress: Progress, chunks: Chunks, *, at: int | None
    ) -> Progress:
        """Append *chunks*. With *at*, only if that is how many bytes the upload holds.

        Raises UploadUnknownError, UploadBusyError, OffsetError, StorageFullError. Bytes that came before *chunks*
        failed stay, so that the client can ask where to go on.
        """
        ...

    async def upload_progress(self, name: RepositoryName, upload: str, progress: Progress) -> Progress:
        """Where the upload really stands. Raises UploadUnknownError."""
        ...

    async def finish_upload(self, name: RepositoryName, upload: str, progress: Progress, digest: Digest) -> int:
        """Verify the bytes against *digest*, make them durable under it and end the upload; returns their number.

        Raises DigestMismatchError (the upload is gone then), UploadUnknownError, UploadBusyError, StorageFullError.
        """
        ...

    async def cancel_upload(self, name: RepositoryName, upload: str, progress: Progress) -> None:
        """Drop the upload and its bytes. Raises UploadUnknownError."""
        ...

    async def mount_blob(self, source: RepositoryName, target: RepositoryName, digest: Digest) -> bool:
        """Make the blob of *source* readable in *target*, without copying; False where that can't be done.

        Both accesses were granted. With ``truth`` the core links, and the backend says whether it holds the bytes.
        """
        ...

    async def delete_blob(self, name: RepositoryName, digest: Digest) -> None:
        """The repository no longer has the blob. With ``truth`` the core has unlinked it; others may link it still."""
        ...


@dataclass(frozen=True, slots=True)
class Manifest:
    """A manifest: its descriptor, its bytes unless only its head was asked for, and what it says where it was read."""

    digest: Digest
    media_type: str
    size: int
    content: bytes | None = None
    details: ManifestDetails | None = None


@runtime_checkable
class ManifestStore(Protocol):
    """Manifests and tags: the core's tables for a ``truth`` backend, the upstream for an ``index`` backend."""

    async def manifest(self, name: RepositoryName, reference: Reference, *, head: bool = False) -> Manifest | None:
        """The manifest that *reference* stands for in the repository, or None."""
        ...

    async def put_manifest(
        self, name: RepositoryName, references: Sequence[Reference], manifest: Manifest, by: Identity
    ) -> None:
        """Store a manifest that was read and checked, and point the tags among *references* at it, all or nothing.

        Raises MissingContentError with what it requires and the repository doesn't have.
        """
        ...

    async def delete_manifest(self, name: RepositoryName, reference: Reference) -> bool:
        """Delete a tag alone, or a manifest with every tag that points at it; False where there was none."""
        ...

    async def tags(self, name: RepositoryName, query: TagQuery) -> TagPage | None:
        """A page of tags sorted by byte; None where the repository does not exist."""
        ...

    async def referrers(
        self, name: RepositoryName, subject: Digest, artifact_type: str | None, last: str, limit: int
    ) -> Sequence[Descriptor]:
        """At most *limit* manifests that have *subject* as their subject, by digest, after the digest *last*."""
        ...


@dataclass(frozen=True, slots=True)
class Capability:
    """Something of the protocol: what a registry does about it, and what the gateway adds where that is too little."""

    name: str
    found: str
    good: bool | None
    """None where it can't be told."""
    added: str = ""


@runtime_checkable
class Upstream(Backend, ManifestStore, Protocol):
    """A backend with ``metadata = index``: another registry. The core records what passes through, and adds to it.

    With *exclusive* nobody else writes to it, so what was recorded holds until it is changed here; else a tag is asked
    for anew after *tag_freshness* seconds. It is asked for manifests by sha256 alone: the core maps other digests.
    """

    exclusive: bool
    tag_freshness: float

    def repositories(self) -> AsyncIterator[RepositoryName]:
        """Every repository that it lists and that has a name here. Raises RegistryError where it can list none."""
        ...

    async def probe(self, name: RepositoryName) -> Sequence[Capability]:
        """What it can, found out by questions about *name* that change nothing. Raises RegistryError."""
        ...


@dataclass(frozen=True, slots=True)
class GarbageRules:
    """When a backend's garbage goes: *grace* after it became garbage, and nothing that was touched within *quiet*.

    Of a repository that was pushed to within *quiet* nothing goes. *untagged*: also manifests that no tag leads to.
    *interval* is that of the periodic job; None: there is none.
    """

    grace: timedelta = timedelta(hours=24)
    quiet: timedelta = timedelta(minutes=10)
    untagged: bool = False
    interval: timedelta | None = timedelta(hours=1)


@dataclass(frozen=True, slots=True)
class StoredBlob:
    """A blob's bytes as they lie in a backend; *stored_at* is when they were last put there (seconds since 1970)."""

    digest: Digest
    size: int
    stored_at: float


@runtime_checkable
class Collectable(Backend, Protocol):
    """A backend with ``metadata = truth`` whose blobs can be removed, once no repository links them, while it is used.

    A link is made only while the blob is pinned, and bytes are removed only while nobody pins them and nothing links
    them: so there is never a link without bytes, whatever is killed when.
    """

    garbage: GarbageRules

    def stored(self) -> AsyncIterator[Sequence[StoredBlob]]:
        """Every blob whose bytes are here, some at a time."""
        ...

    def pinned(self, digest: Digest) -> AbstractAsyncContextManager[bool]:
        """Whether the blob's bytes are here; in no process are they removed while the block runs. Kept short."""
        ...

    async def remove_blob(self, digest: Digest, before: float, linked: Callable[[], Awaitable[bool]]) -> bool:
        """Remove the blob's bytes; False where they stay: pinned, put there since *before*, *linked*, or gone.

        *linked* is asked while nobody can pin the blob.
        """
        ...


class Metadata(ManifestStore, Protocol):
    """The core's tables, lent to plugins. Names are those of repositories; times are UTC."""

    async def linked(self, name: RepositoryName, digest: Digest) -> int | None:
        """The size in bytes of a blob that the repository links, or None."""
        ...

    async def referred(self, name: RepositoryName, digest: Digest) -> int | None:
        """The size in bytes of a blob that a manifest of the repository names, or None."""
        ...

    async def repositories(self, projects: frozenset[str] | None, last: str, limit: int) -> Sequence[str]:
        """At most *limit* repositories that hold a manifest, sorted by byte, after *last*; of *projects* if given."""
        ...


class Facts(Protocol):
    """What the sources of identities and projects know. Each question goes to the one source that may answer it."""

    async def project(self, candidates: Sequence[str], identity: Identity | None = None) -> Project | Unknown | None:
        """The project at the first of *candidates* (lower-case paths) where there is one; else what sources asked.

        *identity* is who asks; None: the gateway itself.
        """
        ...

    async def standing(self, identity: Identity, project: Project) -> Standing:
        """How *identity* stands to *project*, as its own source knows it."""
        ...

    async def projects(self, identity: Identity) -> Sequence[tuple[Project, Standing]]:
        """Every project that the source of *identity* knows, with how the identity stands to it."""
        ...

    async def find_project(self, identity: Identity, key: int | str) -> Project | None:
        """The project with the number or the path *key*, as the source of *identity* knows it; see the hook."""
        ...

    async def find_group(self, identity: Identity, key: int | str) -> Group | None:
        """The group with the number or the path *key*."""
        ...

    async def group_standing(self, identity: Identity, group: Group) -> Standing:
        """How *identity* stands to *group*, as its own source knows it."""
        ...

    async def group_projects(self, identity: Identity, group: Group) -> Sequence[Project]:
        """Every project below *group*."""
        ...

    async def profile(self, identity: Identity) -> Profile | None:
        """What the source of *identity* says of its user and token."""
        ...

    async def relay(self, identity: Identity, call: ApiCall) -> ApiAnswer | None:
        """What the server that knows *identity* answers; None where the gateway itself knows all there is to know."""
        ...

    async def set_registry_level(self, identity: Identity, project: Project, level: RegistryLevel) -> bool:
        """Have the project's source keep *level*; False where it keeps none."""
        ...

    async def expiration_policy(self, project: Project) -> ExpirationPolicy | None:
        """The project's policy, where somebody keeps one."""
        ...

    async def set_expiration_policy(
        self, identity: Identity, project: Project, attributes: Mapping[str, object]
    ) -> ExpirationPolicy | None:
        """Change it; None where nobody keeps policies. Raises InvalidSettingError."""
        ...

    async def cleanup_rules(self, project: Project) -> Cleanup | None:
        """What a run of the policy would go by now; None: nobody runs policies. Raises InvalidSettingError."""
        ...

    async def run_cleanup(self, identity: Identity, project: Project, *, confirm: bool) -> Mapping[str, str] | None:
        """Have the policy run soon, and with *confirm* what it stopped at; see the hook. None: nobody runs policies.

        Raises InvalidSettingError where the policy is not enabled.
        """
        ...

    async def authenticate(self, credential: Credential, client: Client) -> Identity:
        """Who presents *credential*. Raises InvalidCredentialError."""
        ...

    async def decide(self, identity: Identity, asked: Sequence[Access]) -> tuple[Answer, ...] | Refusal:
        """What *identity* may do of *asked*: the one decision, that every other way to images is subject to as well."""
        ...


@dataclass(frozen=True, slots=True)
class Remembered:
    """An answer and for how many seconds it is good; *stale*: whether it may serve longer where nobody can be asked."""

    value: bytes
    seconds: float
    stale: bool = True


@dataclass(frozen=True, slots=True)
class Recalled:
    """An answer and where it was found: ``asked`` just now, in ``memory``, in ``redis``, or ``stale`` in either."""

    value: bytes
    source: str


class Cache(Protocol):
    """Answers remembered in this process, and for all replicas where the operator runs Redis."""

    async def remember(
        self,
        key: bytes,
        ask: Callable[[], Awaitable[Remembered]],
        *,
        stale: float = 0.0,
        on: type[Exception] = LookupError,
    ) -> Recalled:
        """The answer for *key*, or what *ask* says; however many wait for one key, *ask* is called once.

        *key* may hold secrets: it is hashed under a key of the gateway's own. Where *ask* raises *on*, an answer that
        was good within the last *stale* seconds still serves; else the exception is raised.
        """
        ...

    async def forget(self, key: bytes) -> None:
        """Remember nothing for *key*."""
        ...

    async def count(self, key: bytes, seconds: float) -> int:
        """Count one more for *key*: how many all replicas counted within *seconds*, or 0 where nobody can say."""
        ...


class NoCache:
    """Remembers nothing: for tests of plugins."""

    async def remember(
        self,
        key: bytes,
        ask: Callable[[], Awaitable[Remembered]],
        *,
        stale: float = 0.0,
        on: type[Exception] = LookupError,
    ) -> Recalled:
        """Ask each time."""
        del key, stale, on
        return Recalled((await ask()).value, "asked")

    async def forget(self, key: bytes) -> None:
        """Nothing is there to forget."""

    async def count(self, key: bytes, seconds: float) -> int:
        """Nobody can say."""
        del key, seconds
        return 0


@dataclass(slots=True)
class Held:
    """An upload that nobody else may touch now. What is set here is kept, however the block is left."""

    progress: Progress
    ended: bool = False


class UploadRecords(Protocol):
    """Where the uploads of a backend stand that can't be asked: one truth for all workers and replicas."""

    async def begin(self, upload: str, progress: Progress) -> None:
        """Record an upload that has just begun."""
        ...

    def held(self, upload: str) -> AbstractAsyncContextManager[Held]:
        """Hold an upload alone, until the block is left or this process has died for some seconds.

        Raises UploadUnknownError, UploadBusyError.
        """
        ...

    async def progress(self, upload: str) -> Progress:
        """Where it stood when it was last held. Raises UploadUnknownError."""
        ...


class NoUploads:
    """Knows of no upload: for tests of plugins."""

    async def begin(self, upload: str, progress: Progress) -> None:
        """Record nothing."""

    def held(self, upload: str) -> AbstractAsyncContextManager[Held]:
        """There is none."""
        raise UploadUnknownError(upload)

    async def progress(self, upload: str) -> Progress:
        """There is none."""
        raise UploadUnknownError(upload)


@dataclass(frozen=True, slots=True)
class By:
    """Who changes something, and how: for the log. *how* is such as ``rest``, ``registry``, ``cleanup policy``."""

    subject: str
    how: str
    address: str = ""
    request_id: str = ""


@dataclass(frozen=True, slots=True)
class RepositoryRecord:
    """What is recorded of a repository. *project* is the lower-case path of its project; times are UTC.

    *status* is GitLab's: None, ``delete_scheduled``, ``delete_ongoing`` or ``delete_failed``. *cleanup_state* is
    ``unscheduled``, ``scheduled``, ``unfinished`` or ``ongoing`` (semantics 7.3); *cleanup_deleted* is how many tags
    the last run deleted, *cleanup_completed_at* when one was last finished.
    """

    id: int
    path: str
    project: str
    created_at: datetime
    status: str | None
    cleanup_state: str
    cleanup_started_at: datetime | None
    cleanup_completed_at: datetime | None = None
    cleanup_deleted: int = 0


@dataclass(frozen=True, slots=True)
class TagRecord:
    """What is recorded of a tag. Sizes are bytes, times UTC; *pushed_by* is empty where nobody pushed it through us.

    *config* and *size* (the sum of the layers) are None for an index, *created_at* also where the config says nothing
    or was not looked at. *platforms* are such as ``linux/arm64/v8``: one, or those of an index's children.
    """

    name: str
    digest: Digest
    media_type: str
    config: Digest | None
    size: int | None
    created_at: datetime | None
    pushed_at: datetime
    pushed_by: str
    platforms: tuple[str, ...]


CleanupState = Literal["unscheduled", "scheduled", "unfinished", "ongoing"]
TagOrder = Literal["name", "created", "size", "pushed"]


@dataclass(frozen=True, slots=True)
class TagSearch:
    """Which tags, in which order: *limit* of them behind *offset*, or, by name alone, after the tag *after*.

    *search* is part of the name, in any case. Tags without a date or size count as the oldest and smallest. With
    *dated* the configs that nobody has read yet are read, so that each tag has its date and platforms.
    """

    search: str = ""
    order: TagOrder = "name"
    descending: bool = False
    platform: str | None = None
    pushed_by: str | None = None
    offset: int = 0
    limit: int = 20
    after: str | None = None
    dated: bool = False


def nobody_watches(state: Applied) -> None:
    """Nobody wants to know how far it is."""
    del state


class Images(Protocol):
    """The management of images, over every backend. What may be done was decided before it is asked.

    What an identity sees is what no plugin hides from it. Of repositories its own source is not asked: it has decided
    about their project. Each method may raise RegistryError: 503 and others where the registry behind can't be asked.
    """

    async def repositories(
        self, identity: Identity, projects: Sequence[str], *, offset: int = 0, limit: int | None = None
    ) -> tuple[Sequence[RepositoryRecord], int]:
        """The repositories of *projects* (lower-case paths) that *identity* sees, by number; and how many there are.

        The registry behind is not asked (semantics 6): its tags are those that are recorded.
        """
        ...

    async def repository(self, identity: Identity, number: int) -> RepositoryRecord | None:
        """The repository that has the number, if *identity* sees it."""
        ...

    async def named(self, name: RepositoryName) -> RepositoryRecord | None:
        """The repository of that name."""
        ...

    async def refresh(self, names: Sequence[RepositoryName]) -> None:
        """Make sure that the recorded tags are those that there are, where others may change them."""
        ...

    async def tags(
        self, identity: Identity, name: RepositoryName, search: TagSearch
    ) -> tuple[Sequence[TagRecord], int]:
        """A page of the tags that *identity* sees, and how many there are that *search* fits."""
        ...

    async def tag_names(self, identity: Identity, names: Sequence[RepositoryName]) -> Mapping[str, Sequence[str]]:
        """All tags of several repositories that *identity* sees, by byte: one question for all."""
        ...

    async def tag_counts(self, identity: Identity, names: Sequence[RepositoryName]) -> Mapping[str, int]:
        """How many tags of several repositories *identity* sees: one question for all."""
        ...

    async def seen(self, identity: Identity, name: RepositoryName) -> Mapping[str, str] | None:
        """The tags that *identity* sees, with their digests; None: nothing is hidden from anybody."""
        ...

    async def tag(self, identity: Identity, name: RepositoryName, tag: Tag) -> TagRecord | None:
        """One tag as it is now, with its date."""
        ...

    async def size(self, name: RepositoryName) -> int:
        """Bytes of the layers and configs that its tags lead to, each counted once."""
        ...

    async def has_tags(self, projects: Sequence[str]) -> bool:
        """Whether any repository of *projects* (lower-case paths) has a tag now."""
        ...

    async def delete_tag(self, name: RepositoryName, tag: Tag, by: By) -> bool:
        """Delete a tag alone, and with the last of an image what is tagged as its signatures; False: there is none."""
        ...

    async def delete_repository(self, number: int, by: By) -> bool:
        """Have the whole repository deleted, soon, whatever ends meanwhile; False: there is none."""
        ...

    async def repositories_of(self, projects: Sequence[str]) -> Sequence[RepositoryRecord]:
        """All repositories of *projects* (lower-case paths), by number: for work that nobody looks at."""
        ...

    async def plan(
        self,
        name: RepositoryName,
        rules: CleanupRules,
        *,
        now: datetime | None = None,
        only: Mapping[str, str] | None = None,
    ) -> Plan:
        """Decide about every tag, and remove none. With *only*, tags and their digests, no others would go.

        Configs are read where dates matter and are not known yet. Raises InvalidSettingError where a pattern is none.
        """
        ...

    async def apply(
        self, plan: Plan, by: By, told: Callable[[Applied], None] = nobody_watches, *, seconds: float | None = None
    ) -> Applied:
        """Remove what *plan* says, tag by tag, for at most *seconds*; a tag that moved since is left alone.

        *told* hears of each. Between two there is a pause, for those who pull.
        """
        ...

    async def mark_cleanup(self, number: int, state: CleanupState, *, deleted: int | None = None) -> None:
        """Record how the cleanup of a repository stands: ``ongoing`` begins it, ``unscheduled`` completes it.

        *deleted* is how many tags it deleted.
        """
        ...


@dataclass(frozen=True, slots=True)
class Task:
    """Work that was promised: done once, after a crash too, and tried again where it fails. *payload* is JSON's."""

    id: int
    kind: str
    subject: str
    payload: Mapping[str, Any]
    by: str
    ordered_at: datetime
    attempts: int


class Tasks(Protocol):
    """The promised work of all workers and replicas. One of them does a task; if it dies another takes over."""

    def handle(
        self,
        kind: str,
        do: Callable[[Task], Awaitable[None]],
        failed: Callable[[Task, bool], Awaitable[None]] | None = None,
    ) -> None:
        """Say, in ``gateway_lifespan``, how tasks of *kind* are done: *do* raises where it has to be tried again.

        *failed* hears of each failure, and whether it was the last (the tenth); n failures are followed by a wait of
        2^n minutes.
        """
        ...

    async def add(self, kind: str, subject: str, payload: Mapping[str, Any], by: str, *, after: float = 0) -> int:
        """Promise it; it begins soon, but not within *after* seconds. Returns its number."""
        ...


@dataclass(frozen=True, slots=True)
class Document:
    """Something that a plugin keeps: JSON, and how often it was changed."""

    key: str
    value: Any
    version: int
    changed_by: str


class Documents(Protocol):
    """What a plugin keeps in the database, under kinds and keys of its own; the same in every worker and replica."""

    async def get(self, kind: str, key: str) -> Document | None:
        """The document, or None."""
        ...

    async def all(self, kind: str) -> Sequence[Document]:
        """Every document of *kind*, by key."""
        ...

    async def put(self, kind: str, key: str, value: Any, by: str, *, version: int | None = None) -> bool:
        """Keep *value*; with *version* (0: there is none yet) only over that one, else False."""
        ...

    async def remove(self, kind: str, key: str) -> None:
        """Keep it no longer."""
        ...


class Opener(Protocol):
    """What a plugin's commands are given as ``ctx.obj``: a gateway's parts, beside one that serves or without one."""

    def opened(self, config: Path) -> AbstractAsyncContextManager[Any]:
        """The plugin whose command it is, as the configuration at *config* has it, open with what it is lent.

        Raises ConfigError: where the configuration is no good or doesn't name the plugin, and in place of a
        RegistryError of the block.
        """
        ...


class Leases(Protocol):
    """What only one may do at a time, of all workers and replicas."""

    async def take(self, name: str, seconds: float) -> str | None:
        """Take the lease if nobody holds it, or its time is over: the holder's secret, else None."""
        ...

    async def release(self, name: str, holder: str) -> None:
        """Give it back."""
        ...

    def held(self, name: str, seconds: float) -> AbstractAsyncContextManager[bool]:
        """Hold it, extended while the block runs; the block is told whether it was taken."""
        ...


async def nobody_hears(name: RepositoryName, there: Mapping[Reference, Digest | None]) -> None:
    """Nobody wants to know: for tests of plugins."""
    del name, there


@dataclass(frozen=True, slots=True)
class Services:
    """What the core lends a plugin, given to its constructor. Nothing in it may be used before ``gateway_lifespan``."""

    name: str
    facts: Facts
    metadata: Metadata
    log: Any
    key: bytes
    """Thirty-two secret bytes of this plugin's own, the same in every worker and replica."""
    cache: Cache = NoCache()  # noqa: RUF009 - it holds nothing
    uploads: UploadRecords = NoUploads()  # noqa: RUF009 - it holds nothing
    images: Images = None  # type: ignore[assignment]  # the gateway gives it; a plugin's test where it needs one
    tasks: Tasks = None  # type: ignore[assignment]  # likewise
    documents: Documents = None  # type: ignore[assignment]  # likewise
    leases: Leases = None  # type: ignore[assignment]  # likewise
    external_url: str | None = None
    """What clients see, ``server.external_url``; None: the Host of each request."""
    changed: Callable[[RepositoryName, Mapping[Reference, Digest | None]], Awaitable[None]] = nobody_hears
    """Tell the core what an upstream says is under some tags and digests of a repository now; None: nothing.

    It may have been changed past the gateway. The core finds out, where that is not what it has recorded.
    """
