"""The one schema of the metadata: what exists, what refers to what, since when and by whom.

Times are milliseconds since 1970, UTC. Names sort by byte on every engine, as the specification's listings do.
"""

from __future__ import annotations

from typing import Final

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
    Text,
    UniqueConstraint,
    false,
    text,
)

NAMING: Final = {
    "ix": "ix_%(table_name)s_%(column_0_N_name)s",
    "uq": "uq_%(table_name)s_%(column_0_N_name)s",
    "fk": "fk_%(table_name)s_%(column_0_name)s",
    "pk": "pk_%(table_name)s",
}

schema = MetaData(naming_convention=NAMING)

# SQLite numbers rows by INTEGER alone.
_Key = BigInteger().with_variant(Integer(), "sqlite")
_Name = String(255).with_variant(String(255, collation="C"), "postgresql")
_Digest = String(135).with_variant(String(135, collation="C"), "postgresql")

repositories = Table(
    "repositories",
    schema,
    Column("id", _Key, primary_key=True),
    Column("path", _Name, nullable=False, unique=True),
    Column("project", _Name, nullable=False, index=True),
    Column("created_at", BigInteger, nullable=False),
    # Counts the changes made through us: what was read upstream before one is not recorded behind it.
    Column("version", BigInteger, nullable=False, server_default="0"),
    # When a crawl last made the records those of the upstream.
    Column("crawled_at", BigInteger),
    # GitLab's word: null, delete_scheduled, delete_ongoing, delete_failed.
    Column("status", String(32)),
    # unscheduled, scheduled, unfinished, ongoing (semantics 7.3).
    Column("cleanup_state", String(16), nullable=False, server_default="unscheduled"),
    Column("cleanup_started_at", BigInteger),
    Column("cleanup_completed_at", BigInteger),
    Column("cleanup_deleted", BigInteger, nullable=False, server_default="0"),
    # When somebody last pushed to it, or asked what it has in order to push: no garbage of it is swept meanwhile.
    Column("active_at", BigInteger),
)

blobs = Table(
    "blobs",
    schema,
    Column("repository_id", _Key, ForeignKey("repositories.id", ondelete="CASCADE"), primary_key=True),
    Column("digest", _Digest, primary_key=True),
    Column("size", BigInteger, nullable=False),
    Column("linked_at", BigInteger, nullable=False),
    # The upload that made the link: its closing request may come twice and is answered alike.
    Column("upload", String(36)),
    # Since when no manifest of the repository refers to it, as a collection of garbage found.
    Column("unreferenced_at", BigInteger),
    Index("ix_blobs_digest", "digest"),
)

manifests = Table(
    "manifests",
    schema,
    Column("id", _Key, primary_key=True),
    Column("repository_id", _Key, ForeignKey("repositories.id", ondelete="CASCADE"), nullable=False),
    Column("digest", _Digest, nullable=False),
    Column("media_type", String(255), nullable=False),
    Column("size", BigInteger, nullable=False),
    Column("content", LargeBinary, nullable=False),
    Column("artifact_type", String(255)),
    Column("annotations", Text),
    Column("subject", _Digest),
    # How an upstream calls it that can't address it by this digest.
    Column("stored_as", _Digest),
    # The upstream refused it, though it is legal: it is served from here.
    Column("held", Boolean, nullable=False, server_default=false()),
    # Of an image: its config, the sum of its layers, and what the config says of itself once somebody wanted to know.
    Column("config", _Digest),
    Column("layers_size", BigInteger),
    Column("created_at", BigInteger),
    # One such as linux/arm64/v8; of an index those of its children, joined by commas.
    Column("platforms", Text),
    # Whether the config was read, or there is none that says anything.
    Column("dated", Boolean, nullable=False, server_default=false()),
    Column("pushed_at", BigInteger, nullable=False),
    Column("pushed_by", String(255), nullable=False),
    # Since when no tag leads to it, as a collection of garbage found.
    Column("unreferenced_at", BigInteger),
    UniqueConstraint("repository_id", "digest"),
    Index("ix_manifests_repository_id_subject_digest", "repository_id", "subject", "digest"),
    # The few that have one, without reading the bytes of all the others.
    Index(
        "ix_manifests_repository_id_stored_as",
        "repository_id",
        "stored_as",
        sqlite_where=text("stored_as IS NOT NULL"),
        postgresql_where=text("stored_as IS NOT NULL"),
    ),
    # Those of which somebody has yet to read the config.
    Index("ix_manifests_undated", "repository_id", sqlite_where=text("dated = 0"), postgresql_where=text("NOT dated")),
)

references = Table(
    "manifest_references",
    schema,
    Column("manifest_id", _Key, ForeignKey("manifests.id", ondelete="CASCADE"), primary_key=True),
    Column("position", Integer, primary_key=True),
    # config, layer, manifest
    Column("kind", String(16), nullable=False),
    Column("digest", _Digest, nullable=False, index=True),
    Column("media_type", String(255), nullable=False),
    Column("size", BigInteger, nullable=False),
)

tags = Table(
    "tags",
    schema,
    Column("repository_id", _Key, ForeignKey("repositories.id", ondelete="CASCADE"), primary_key=True),
    Column("name", String(128).with_variant(String(128, collation="C"), "postgresql"), primary_key=True),
    Column("manifest_id", _Key, ForeignKey("manifests.id", ondelete="CASCADE"), nullable=False, index=True),
    Column("created_at", BigInteger, nullable=False),
    Column("pushed_at", BigInteger, nullable=False),
    Column("pushed_by", String(255), nullable=False),
    # The manifest's own, here so that an index has them in order: -1 where there is none.
    Column("image_created_at", BigInteger, nullable=False, server_default="-1"),
    Column("image_size", BigInteger, nullable=False, server_default="-1"),
    Index("ix_tags_by_push", "repository_id", "pushed_at", "name"),
    Index("ix_tags_by_creation", "repository_id", "image_created_at", "name"),
    Index("ix_tags_by_size", "repository_id", "image_size", "name"),
)

uploads = Table(
    "uploads",
    schema,
    Column("id", String(36), primary_key=True),
    Column("state", Text, nullable=False),
    Column("offset", BigInteger, nullable=False),
    # Who writes to it now, and until when that is believed without word from them.
    Column("holder", String(36)),
    Column("held_until", BigInteger, nullable=False),
    Column("changed_at", BigInteger, nullable=False, index=True),
)

orphans = Table(
    "orphans",
    schema,
    # Bytes in a backend that no repository links, and since when, as a collection of garbage found.
    Column("backend", String(255), primary_key=True),
    Column("digest", _Digest, primary_key=True),
    Column("unreferenced_at", BigInteger, nullable=False),
)

crawls = Table(
    "crawls",
    schema,
    Column("backend", String(255), primary_key=True),
    Column("started_at", BigInteger, nullable=False),
    # Until then a crawl that begins goes on where this one was left.
    Column("ended_at", BigInteger),
)

tasks = Table(
    "tasks",
    schema,
    Column("id", _Key, primary_key=True),
    Column("kind", String(64), nullable=False),
    # The repository or project that it is about.
    Column("subject", _Name, nullable=False, index=True),
    Column("payload", Text, nullable=False),
    Column("ordered_by", String(255), nullable=False),
    Column("ordered_at", BigInteger, nullable=False),
    Column("attempts", Integer, nullable=False, server_default="0"),
    # When it is tried next.
    Column("due_at", BigInteger, nullable=False, index=True),
    # Who works on it now, and until when that is believed without word from them.
    Column("holder", String(36)),
    Column("held_until", BigInteger, nullable=False, server_default="0"),
)

leases = Table(
    "leases",
    schema,
    Column("name", String(512), primary_key=True),
    Column("holder", String(36), nullable=False),
    Column("held_until", BigInteger, nullable=False),
)

documents = Table(
    "documents",
    schema,
    # What plugins keep: the plugin's name, the kind of thing, and which it is.
    Column("plugin", String(255), primary_key=True),
    Column("kind", String(64), primary_key=True),
    Column("key", _Name, primary_key=True),
    Column("value", Text, nullable=False),
    # Counts the changes: who writes says which it has seen.
    Column("version", BigInteger, nullable=False),
    Column("changed_at", BigInteger, nullable=False),
    Column("changed_by", String(255), nullable=False),
)
