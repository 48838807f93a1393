-- Heads of streams. `ids` is an array; a statement marked `rows` takes a set of rows.

-- Inside a batch the rows are locked in id order, so that two batches never wait crosswise.
-- name: lock_heads
SELECT   name, origin, last_sequence, last_digest, first_sequence, anchor, closed, digest
FROM     stream
WHERE    id = ANY (CAST(:ids AS BYTEA[]))
ORDER BY id
FOR NO KEY UPDATE;

-- name: load_heads
SELECT name, origin, last_sequence, last_digest, first_sequence, anchor, closed, digest
FROM   stream
WHERE  id = ANY (CAST(:ids AS BYTEA[]));

-- name: load_anchor
SELECT event.digest
FROM   event
JOIN   stream ON stream.origin = event.origin
WHERE  stream.id = :id AND event.sequence = :sequence;

-- name: create_heads rows
INSERT INTO stream (id, name, origin, last_sequence, last_digest, first_sequence, anchor, closed, digest)
SELECT *
FROM   unnest(CAST(:id AS BYTEA[]),
              CAST(:name AS BYTEA[]),
              CAST(:origin AS BIGINT[]),
              CAST(:last_sequence AS BIGINT[]),
              CAST(:last_digest AS BYTEA[]),
              CAST(:first_sequence AS BIGINT[]),
              CAST(:anchor AS BYTEA[]),
              CAST(:closed AS SMALLINT[]),
              CAST(:digest AS BYTEA[]))
ON CONFLICT (id) DO NOTHING;

-- name: update_heads rows
UPDATE stream
SET    last_sequence  = changed.last_sequence,
       last_digest    = changed.last_digest,
       first_sequence = changed.first_sequence,
       anchor         = changed.anchor,
       closed         = changed.closed,
       digest         = changed.digest
FROM   unnest(CAST(:id AS BYTEA[]),
              CAST(:name AS BYTEA[]),
              CAST(:origin AS BIGINT[]),
              CAST(:last_sequence AS BIGINT[]),
              CAST(:last_digest AS BYTEA[]),
              CAST(:first_sequence AS BIGINT[]),
              CAST(:anchor AS BYTEA[]),
              CAST(:closed AS SMALLINT[]),
              CAST(:digest AS BYTEA[]))
       AS changed (id, name, origin, last_sequence, last_digest, first_sequence, anchor, closed, digest)
WHERE  stream.id = changed.id;

-- name: list_heads
SELECT   id, name, origin, last_sequence, last_digest, first_sequence, anchor, closed, digest
FROM     stream
WHERE    substring(name FROM 1 FOR 512) >= substring(CAST(:first AS BYTEA) FROM 1 FOR 512)
         AND name >= :first AND name < :until
ORDER BY substring(name FROM 1 FOR 512), name
LIMIT    :limit;

-- name: scan_heads
SELECT   id, name, origin, last_sequence, last_digest, first_sequence, anchor, closed, digest
FROM     stream
WHERE    id > :after
ORDER BY id
LIMIT    :limit;
