"""Alembic's entry: runs the steps on the connection it is given; knows no address and reads no file."""

from alembic import context

from services.gateway.tenancy.schema import Base

context.configure(connection=context.config.attributes["connection"], target_metadata=Base.metadata)
with context.begin_transaction():
    context.run_migrations()
