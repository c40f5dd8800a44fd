"""What a collection of garbage remembers: since when something is not referred to, and who is being pushed to."""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"


def upgrade() -> None:
    """Add columns that version 0003 can ignore, and one table."""
    op.add_column("repositories", sa.Column("active_at", sa.BigInteger()))
    op.add_column("blobs", sa.Column("unreferenced_at", sa.BigInteger()))
    op.add_column("manifests", sa.Column("unreferenced_at", sa.BigInteger()))
    op.create_table(
        "orphans",
        sa.Column("backend", sa.String(255), nullable=False),
        sa.Column(
            "digest",
            sa.String(135).with_variant(sa.String(135, collation="C"), "postgresql"),
            nullable=False,
        ),
        sa.Column("unreferenced_at", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("backend", "digest", name="pk_orphans"),
    )
