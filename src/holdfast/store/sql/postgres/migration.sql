-- Which migrations were applied, and with which text.

-- name: create_migration_table
CREATE TABLE IF NOT EXISTS migration (
    number     BIGINT           NOT NULL PRIMARY KEY,
    name       TEXT             NOT NULL,
    checksum   TEXT             NOT NULL,
    applied_at DOUBLE PRECISION NOT NULL
);

-- name: has_migration_table
SELECT COUNT(*) FROM pg_tables WHERE schemaname = current_schema() AND tablename = 'migration';

-- name: list_migrations
SELECT number, name, checksum FROM migration ORDER BY number;

-- name: add_migration
INSERT INTO migration (number, name, checksum, applied_at)
VALUES (:number, :name, :checksum, :applied_at);
