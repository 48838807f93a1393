-- Blobs: immutable bytes by their SHA-256. Snapshots: bytes by name and sequence.

-- name: put_blobs rows
INSERT INTO blob (content, size, encoding, stored, written_at, format, digest)
SELECT *
FROM   unnest(CAST(:content AS BYTEA[]),
              CAST(:size AS BIGINT[]),
              CAST(:encoding AS TEXT[]),
              CAST(:stored AS BYTEA[]),
              CAST(:written_at AS DOUBLE PRECISION[]),
              CAST(:format AS SMALLINT[]),
              CAST(:digest AS BYTEA[]))
ON CONFLICT (content) DO NOTHING;

-- Only what is still as it was read.
-- name: reseal_blob
UPDATE blob
SET    stored = :stored,
       format = :format,
       digest = :digest
WHERE  content = :content AND digest = :before;

-- name: drop_blobs
DELETE FROM blob
WHERE  content = ANY (CAST(:contents AS BYTEA[]));

-- name: read_blob
SELECT content, size, encoding, stored, written_at, format, digest
FROM   blob
WHERE  content = :content;

-- name: scan_blobs
SELECT   content, size, encoding, stored, written_at, format, digest
FROM     blob
WHERE    content > :after
ORDER BY content
LIMIT    :limit;

-- name: put_snapshots rows
INSERT INTO snapshot (id, name, stream, sequence, size, encoding, stored, written_at, format, digest)
SELECT *
FROM   unnest(CAST(:id AS BYTEA[]),
              CAST(:name AS BYTEA[]),
              CAST(:stream AS BYTEA[]),
              CAST(:sequence AS BIGINT[]),
              CAST(:size AS BIGINT[]),
              CAST(:encoding AS TEXT[]),
              CAST(:stored AS BYTEA[]),
              CAST(:written_at AS DOUBLE PRECISION[]),
              CAST(:format AS SMALLINT[]),
              CAST(:digest AS BYTEA[]))
ON CONFLICT (id, sequence) DO UPDATE
SET    stream     = excluded.stream,
       size       = excluded.size,
       encoding   = excluded.encoding,
       stored     = excluded.stored,
       written_at = excluded.written_at,
       format     = excluded.format,
       digest     = excluded.digest;

-- name: reseal_snapshot
UPDATE snapshot
SET    stored = :stored,
       format = :format,
       digest = :digest
WHERE  id = :id AND sequence = :sequence AND digest = :before;

-- name: trim_snapshots
DELETE FROM snapshot
WHERE  id = :id
       AND sequence NOT IN (SELECT   newest.sequence
                            FROM     snapshot AS newest
                            WHERE    newest.id = :id
                            ORDER BY newest.sequence DESC
                            LIMIT    :keep);

-- name: read_snapshots
SELECT   name, stream, sequence, size, encoding, stored, written_at, format, digest
FROM     snapshot
WHERE    id = :id
ORDER BY sequence DESC
LIMIT    :limit;

-- name: scan_snapshots
SELECT   id, name, stream, sequence, size, encoding, stored, written_at, format, digest
FROM     snapshot
WHERE    (id, sequence) > (:after, :after_sequence)
ORDER BY id, sequence
LIMIT    :limit;
