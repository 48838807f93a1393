-- Records: current values by kind and key. A row without value is a deleted record.

-- name: lock_records
SELECT   kind, key, version, tag, value, written_at, format, digest
FROM     record
WHERE    id = ANY (CAST(:ids AS BYTEA[]))
ORDER BY id
FOR NO KEY UPDATE;

-- name: load_records
SELECT kind, key, version, tag, value, written_at, format, digest
FROM   record
WHERE  id = ANY (CAST(:ids AS BYTEA[]));

-- name: create_records rows
INSERT INTO record (id, kind, key, version, tag, value, written_at, format, digest)
SELECT *
FROM   unnest(CAST(:id AS BYTEA[]),
              CAST(:kind AS TEXT[]),
              CAST(:key AS BYTEA[]),
              CAST(:version AS BIGINT[]),
              CAST(:tag AS TEXT[]),
              CAST(:value AS BYTEA[]),
              CAST(:written_at AS DOUBLE PRECISION[]),
              CAST(:format AS SMALLINT[]),
              CAST(:digest AS BYTEA[]))
ON CONFLICT (id) DO NOTHING;

-- name: update_records rows
UPDATE record
SET    version    = changed.version,
       tag        = changed.tag,
       value      = changed.value,
       written_at = changed.written_at,
       format     = changed.format,
       digest     = changed.digest
FROM   unnest(CAST(:id AS BYTEA[]),
              CAST(:kind AS TEXT[]),
              CAST(:key AS BYTEA[]),
              CAST(:version AS BIGINT[]),
              CAST(:tag AS TEXT[]),
              CAST(:value AS BYTEA[]),
              CAST(:written_at AS DOUBLE PRECISION[]),
              CAST(:format AS SMALLINT[]),
              CAST(:digest AS BYTEA[]))
       AS changed (id, kind, key, version, tag, value, written_at, format, digest)
WHERE  record.id = changed.id;

-- name: drop_records
DELETE FROM record
WHERE  id = ANY (CAST(:ids AS BYTEA[]));

-- name: list_records
SELECT   kind, key, version, tag, value, written_at, format, digest
FROM     record
WHERE    kind = :kind
         AND substring(key FROM 1 FOR 512) >= substring(CAST(:first AS BYTEA) FROM 1 FOR 512)
         AND key >= :first AND key < :until AND value IS NOT NULL
ORDER BY substring(key FROM 1 FOR 512), key
LIMIT    :limit;

-- name: list_tagged
SELECT   kind, key, version, tag, value, written_at, format, digest
FROM     record
WHERE    kind = :kind AND tag = :tag
         AND substring(key FROM 1 FOR 512) >= substring(CAST(:first AS BYTEA) FROM 1 FOR 512)
         AND key >= :first AND key < :until AND value IS NOT NULL
ORDER BY substring(key FROM 1 FOR 512), key
LIMIT    :limit;

-- name: scan_records
SELECT   id, kind, key, version, tag, value, written_at, format, digest
FROM     record
WHERE    id > :after
ORDER BY id
LIMIT    :limit;

-- name: purge_deleted
DELETE FROM record
WHERE  value IS NULL AND written_at < :before;
