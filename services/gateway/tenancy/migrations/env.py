"""Alembic's entry: runs the steps on the connection it is given; knows no address and reads no file."""

from alembic import context

from services.gateway.tenancy.schema import Base

if __name__ == "env_py":  # what Alembic calls it; anyone else may import it without effect
    context.configure(connection=context.config.attributes["connection"], target_metadata=Base.metadata)
    with context.begin_transaction():
        context.run_migrations()
