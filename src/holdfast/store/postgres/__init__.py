"""The PostgreSQL store: a schema in a database, shared by the processes of a fleet."""

from holdfast.core.errors import MissingExtraError

try:
    from holdfast.store.postgres.driver import PostgresDriver
except ModuleNotFoundError as error:
    if error.name != "psycopg":
        raise
    raise MissingExtraError(feature="a postgresql:// store", extra="postgres") from error

__all__ = ["PostgresDriver"]
