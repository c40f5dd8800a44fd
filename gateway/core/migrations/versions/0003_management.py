"""What managing images needs: what configs say, states of repositories, tasks, leases, and documents of plugins."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"

_key = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
_INDEXES = (
    "application/vnd.oci.image.index.v1+json",
    "application/vnd.docker.distribution.manifest.list.v2+json",
)


def _text(length: int) -> sa.String:
    return sa.String(length).with_variant(sa.String(length, collation="C"), "postgresql")


def upgrade() -> None:
    """Add columns that version 0002 can ignore, and three tables; fill in what the manifests' references say."""
    _repositories()
    _manifests()
    _tags()
    _tables()


def _repositories() -> None:
    op.add_column("repositories", sa.Column("status", sa.String(32)))
    op.add_column(
        "repositories", sa.Column("cleanup_state", sa.String(16), nullable=False, server_default="unscheduled")
    )
    op.add_column("repositories", sa.Column("cleanup_started_at", sa.BigInteger()))
    op.add_column("repositories", sa.Column("cleanup_completed_at", sa.BigInteger()))
    op.add_column("repositories", sa.Column("cleanup_deleted", sa.BigInteger(), nullable=False, server_default="0"))


def _manifests() -> None:
    op.add_column("manifests", sa.Column("config", _text(135)))
    op.add_column("manifests", sa.Column("layers_size", sa.BigInteger()))
    op.add_column("manifests", sa.Column("created_at", sa.BigInteger()))
    op.add_column("manifests", sa.Column("platforms", sa.Text()))
    op.add_column("manifests", sa.Column("dated", sa.Boolean(), nullable=False, server_default=sa.false()))
    manifests, references = (
        sa.table("manifests", *map(sa.column, ("id", "media_type", "config", "layers_size"))),
        (sa.table("manifest_references", *map(sa.column, ("manifest_id", "kind", "digest", "size")))),
    )
    own = references.c.manifest_id == manifests.c.id
    config = sa.select(references.c.digest).where(own, references.c.kind == "config").limit(1).scalar_subquery()
    layers = sa.select(sa.func.coalesce(sa.func.sum(references.c.size), 0)).where(own, references.c.kind == "layer")
    images = ~manifests.c.media_type.in_(_INDEXES)
    op.execute(manifests.update().where(images).values(config=config, layers_size=layers.scalar_subquery()))
    # Each engine takes the index for a question that is put in its own words.
    op.create_index(
        "ix_manifests_undated",
        "manifests",
        ["repository_id"],
        sqlite_where=sa.text("dated = 0"),
        postgresql_where=sa.text("NOT dated"),
    )


def _tags() -> None:
    op.add_column("tags", sa.Column("image_created_at", sa.BigInteger(), nullable=False, server_default="-1"))
    op.add_column("tags", sa.Column("image_size", sa.BigInteger(), nullable=False, server_default="-1"))
    tags = sa.table("tags", *map(sa.column, ("manifest_id", "image_size")))
    manifests = sa.table("manifests", *map(sa.column, ("id", "layers_size")))
    size = sa.select(sa.func.coalesce(manifests.c.layers_size, -1)).where(manifests.c.id == tags.c.manifest_id)
    op.execute(tags.update().values(image_size=size.scalar_subquery()))
    op.create_index("ix_tags_by_push", "tags", ["repository_id", "pushed_at", "name"])
    op.create_index("ix_tags_by_creation", "tags", ["repository_id", "image_created_at", "name"])
    op.create_index("ix_tags_by_size", "tags", ["repository_id", "image_size", "name"])


def _tables() -> None:
    op.create_table(
        "tasks",
        sa.Column("id", _key, nullable=False),
        sa.Column("kind", sa.String(64), nullable=False),
        sa.Column("subject", _text(255), nullable=False),
        sa.Column("payload", sa.Text(), nullable=False),
        sa.Column("ordered_by", sa.String(255), nullable=False),
        sa.Column("ordered_at", sa.BigInteger(), nullable=False),
        sa.Column("attempts", sa.Integer(), nullable=False, server_default="0"),
        sa.Column("due_at", sa.BigInteger(), nullable=False),
        sa.Column("holder", sa.String(36)),
        sa.Column("held_until", sa.BigInteger(), nullable=False, server_default="0"),
        sa.PrimaryKeyConstraint("id", name="pk_tasks"),
    )
    op.create_index("ix_tasks_subject", "tasks", ["subject"])
    op.create_index("ix_tasks_due_at", "tasks", ["due_at"])
    op.create_table(
        "leases",
        sa.Column("name", sa.String(512), nullable=False),
        sa.Column("holder", sa.String(36), nullable=False),
        sa.Column("held_until", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("name", name="pk_leases"),
    )
    op.create_table(
        "documents",
        sa.Column("plugin", sa.String(255), nullable=False),
        sa.Column("kind", sa.String(64), nullable=False),
        sa.Column("key", _text(255), nullable=False),
        sa.Column("value", sa.Text(), nullable=False),
        sa.Column("version", sa.BigInteger(), nullable=False),
        sa.Column("changed_at", sa.BigInteger(), nullable=False),
        sa.Column("changed_by", sa.String(255), nullable=False),
        sa.PrimaryKeyConstraint("plugin", "kind", "key", name="pk_documents"),
    )
