"""The first schema: repositories, the blobs they link, manifests with what they refer to, and tags."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None

_key = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def _text(length: int) -> sa.String:
    return sa.String(length).with_variant(sa.String(length, collation="C"), "postgresql")


def upgrade() -> None:
    """Create every table."""
    op.create_table(
        "repositories",
        sa.Column("id", _key, nullable=False),
        sa.Column("path", _text(255), nullable=False),
        sa.Column("project", _text(255), nullable=False),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_repositories"),
        sa.UniqueConstraint("path", name="uq_repositories_path"),
    )
    op.create_index("ix_repositories_project", "repositories", ["project"])
    op.create_table(
        "blobs",
        sa.Column("repository_id", _key, nullable=False),
        sa.Column("digest", _text(135), nullable=False),
        sa.Column("size", sa.BigInteger(), nullable=False),
        sa.Column("linked_at", sa.BigInteger(), nullable=False),
        sa.Column("upload", sa.String(36)),
        sa.ForeignKeyConstraint(
            ["repository_id"], ["repositories.id"], name="fk_blobs_repository_id", ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("repository_id", "digest", name="pk_blobs"),
    )
    op.create_index("ix_blobs_digest", "blobs", ["digest"])
    op.create_table(
        "manifests",
        sa.Column("id", _key, nullable=False),
        sa.Column("repository_id", _key, nullable=False),
        sa.Column("digest", _text(135), nullable=False),
        sa.Column("media_type", sa.String(255), nullable=False),
        sa.Column("size", sa.BigInteger(), nullable=False),
        sa.Column("content", sa.LargeBinary(), nullable=False),
        sa.Column("artifact_type", sa.String(255)),
        sa.Column("annotations", sa.Text()),
        sa.Column("subject", _text(135)),
        sa.Column("pushed_at", sa.BigInteger(), nullable=False),
        sa.Column("pushed_by", sa.String(255), nullable=False),
        sa.ForeignKeyConstraint(
            ["repository_id"], ["repositories.id"], name="fk_manifests_repository_id", ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("id", name="pk_manifests"),
        sa.UniqueConstraint("repository_id", "digest", name="uq_manifests_repository_id_digest"),
    )
    op.create_index("ix_manifests_repository_id_subject_digest", "manifests", ["repository_id", "subject", "digest"])
    op.create_table(
        "manifest_references",
        sa.Column("manifest_id", _key, nullable=False),
        sa.Column("position", sa.Integer(), nullable=False),
        sa.Column("kind", sa.String(16), nullable=False),
        sa.Column("digest", _text(135), nullable=False),
        sa.Column("media_type", sa.String(255), nullable=False),
        sa.Column("size", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(
            ["manifest_id"], ["manifests.id"], name="fk_manifest_references_manifest_id", ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("manifest_id", "position", name="pk_manifest_references"),
    )
    op.create_index("ix_manifest_references_digest", "manifest_references", ["digest"])
    op.create_table(
        "tags",
        sa.Column("repository_id", _key, nullable=False),
        sa.Column("name", _text(128), nullable=False),
        sa.Column("manifest_id", _key, nullable=False),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.Column("pushed_at", sa.BigInteger(), nullable=False),
        sa.Column("pushed_by", sa.String(255), nullable=False),
        sa.ForeignKeyConstraint(["manifest_id"], ["manifests.id"], name="fk_tags_manifest_id", ondelete="CASCADE"),
        sa.ForeignKeyConstraint(
            ["repository_id"], ["repositories.id"], name="fk_tags_repository_id", ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("repository_id", "name", name="pk_tags"),
    )
    op.create_index("ix_tags_manifest_id", "tags", ["manifest_id"])
