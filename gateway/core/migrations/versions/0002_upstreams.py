"""What registries behind the gateway need: versions of repositories, manifests under other names, uploads, crawls."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    """Add columns that version 0001 can ignore, and two tables."""
    op.add_column("repositories", sa.Column("version", sa.BigInteger(), nullable=False, server_default="0"))
    op.add_column("repositories", sa.Column("crawled_at", sa.BigInteger()))
    digest = sa.String(135).with_variant(sa.String(135, collation="C"), "postgresql")
    op.add_column("manifests", sa.Column("stored_as", digest))
    op.add_column("manifests", sa.Column("held", sa.Boolean(), nullable=False, server_default=sa.false()))
    some = sa.text("stored_as IS NOT NULL")
    op.create_index(
        "ix_manifests_repository_id_stored_as",
        "manifests",
        ["repository_id", "stored_as"],
        sqlite_where=some,
        postgresql_where=some,
    )
    op.create_table(
        "uploads",
        sa.Column("id", sa.String(36), nullable=False),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("offset", sa.BigInteger(), nullable=False),
        sa.Column("holder", sa.String(36)),
        sa.Column("held_until", sa.BigInteger(), nullable=False),
        sa.Column("changed_at", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_uploads"),
    )
    op.create_index("ix_uploads_changed_at", "uploads", ["changed_at"])
    op.create_table(
        "crawls",
        sa.Column("backend", sa.String(255), nullable=False),
        sa.Column("started_at", sa.BigInteger(), nullable=False),
        sa.Column("ended_at", sa.BigInteger()),
        sa.PrimaryKeyConstraint("backend", name="pk_crawls"),
    )
