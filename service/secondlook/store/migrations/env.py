"""Alembic's entry point: runs the migrations in the transaction that ``upgrade`` has begun."""

from alembic import context

from secondlook.store.schema import metadata

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=metadata,
    render_as_batch=True,  # SQLite alters a table by copying it
)
context.run_migrations()
