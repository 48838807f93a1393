-- Heads of streams. `ids` is an array; a statement marked `rows` takes a set of rows.

-- Inside a batch; the whole store is locked already.
-- name: lock_heads
SELECT name, origin, last_sequence, last_digest, first_sequence, anchor, closed, digest
FROM   stream
WHERE  id IN (SELECT value FROM carray(:ids));

-- name: load_heads
SELECT name, origin, last_sequence, last_digest, first_sequence, anchor, closed, digest
FROM   stream
WHERE  id IN (SELECT value FROM carray(:ids));

-- name: load_anchor
SELECT event.digest
FROM   event
JOIN   stream ON stream.origin = event.origin
WHERE  stream.id = :id AND event.sequence = :sequence;

-- name: create_heads rows
INSERT INTO stream (id, name, origin, last_sequence, last_digest, first_sequence, anchor, closed, digest)
VALUES (:id, :name, :origin, :last_sequence, :last_digest, :first_sequence, :anchor, :closed, :digest);

-- name: update_heads rows
INSERT INTO stream (id, name, origin, last_sequence, last_digest, first_sequence, anchor, closed, digest)
VALUES (:id, :name, :origin, :last_sequence, :last_digest, :first_sequence, :anchor, :closed, :digest)
ON CONFLICT (id) DO UPDATE
SET    last_sequence  = excluded.last_sequence,
       last_digest    = excluded.last_digest,
       first_sequence = excluded.first_sequence,
       anchor         = excluded.anchor,
       closed         = excluded.closed,
       digest         = excluded.digest;

-- name: list_heads
SELECT   id, name, origin, last_sequence, last_digest, first_sequence, anchor, closed, digest
FROM     stream
WHERE    name >= :first AND name < :until
ORDER BY name
LIMIT    :limit;

-- name: scan_heads
SELECT   id, name, origin, last_sequence, last_digest, first_sequence, anchor, closed, digest
FROM     stream
WHERE    id > :after
ORDER BY id
LIMIT    :limit;
