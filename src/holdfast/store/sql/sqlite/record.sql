-- Records: current values by kind and key. A row without value is a deleted record.

-- Inside a batch; the whole store is locked already.
-- name: lock_records
SELECT kind, key, version, tag, value, written_at, format, digest
FROM   record
WHERE  id IN (SELECT value FROM carray(:ids));

-- name: load_records
SELECT kind, key, version, tag, value, written_at, format, digest
FROM   record
WHERE  id IN (SELECT value FROM carray(:ids));

-- name: create_records rows
INSERT INTO record (id, kind, key, version, tag, value, written_at, format, digest)
VALUES (:id, :kind, :key, :version, :tag, :value, :written_at, :format, :digest);

-- name: update_records rows
INSERT INTO record (id, kind, key, version, tag, value, written_at, format, digest)
VALUES (:id, :kind, :key, :version, :tag, :value, :written_at, :format, :digest)
ON CONFLICT (id) DO UPDATE
SET    version    = excluded.version,
       tag        = excluded.tag,
       value      = excluded.value,
       written_at = excluded.written_at,
       format     = excluded.format,
       digest     = excluded.digest;

-- name: drop_records
DELETE FROM record
WHERE  id IN (SELECT value FROM carray(:ids));

-- name: list_records
SELECT   kind, key, version, tag, value, written_at, format, digest
FROM     record
WHERE    kind = :kind AND key >= :first AND key < :until AND value IS NOT NULL
ORDER BY key
LIMIT    :limit;

-- name: list_tagged
SELECT   kind, key, version, tag, value, written_at, format, digest
FROM     record
WHERE    kind = :kind AND tag = :tag AND key >= :first AND key < :until AND value IS NOT NULL
ORDER BY key
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
