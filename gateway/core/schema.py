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
    Column("pushed_at", BigInteger, nullable=False),
    Column("pushed_by", String(255), nullable=False),
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

crawls = Table(
    "crawls",
    schema,
    Column("backend", String(255), primary_key=True),
    Column("started_at", BigInteger, nullable=False),
    # Until then a crawl that begins goes on where this one was left.
    Column("ended_at", BigInteger),
)
