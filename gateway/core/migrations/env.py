"""Alembic's entry: runs on the connection that ``database.migrate`` opened and locked."""

from alembic import context

from gateway.core.schema import schema

context.configure(
    connection=context.config.attributes["connection"], target_metadata=schema, transaction_per_migration=False
)
with context.begin_transaction():
    context.run_migrations()
