"""The PostgreSQL store: a schema in a database, shared by the processes of a fleet."""

from holdfast.store.postgres.driver import PostgresDriver

__all__ = ["PostgresDriver"]
