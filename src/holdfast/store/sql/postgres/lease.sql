-- Leases: who may act, under which generation. Rows stay for ever.

-- name: lock_leases
SELECT   key, generation, incarnation, holder, domain, expires_at, digest
FROM     lease
WHERE    id = ANY (CAST(:ids AS BYTEA[]))
ORDER BY id
FOR NO KEY UPDATE;

-- name: load_leases
SELECT key, generation, incarnation, holder, domain, expires_at, digest
FROM   lease
WHERE  id = ANY (CAST(:ids AS BYTEA[]));

-- name: create_leases rows
INSERT INTO lease (id, key, generation, incarnation, holder, domain, expires_at, digest)
SELECT *
FROM   unnest(CAST(:id AS BYTEA[]),
              CAST(:key AS BYTEA[]),
              CAST(:generation AS BIGINT[]),
              CAST(:incarnation AS BYTEA[]),
              CAST(:holder AS TEXT[]),
              CAST(:domain AS TEXT[]),
              CAST(:expires_at AS DOUBLE PRECISION[]),
              CAST(:digest AS BYTEA[]))
ON CONFLICT (id) DO NOTHING;

-- name: update_leases rows
UPDATE lease
SET    generation  = changed.generation,
       incarnation = changed.incarnation,
       holder      = changed.holder,
       domain      = changed.domain,
       expires_at  = changed.expires_at,
       digest      = changed.digest
FROM   unnest(CAST(:id AS BYTEA[]),
              CAST(:key AS BYTEA[]),
              CAST(:generation AS BIGINT[]),
              CAST(:incarnation AS BYTEA[]),
              CAST(:holder AS TEXT[]),
              CAST(:domain AS TEXT[]),
              CAST(:expires_at AS DOUBLE PRECISION[]),
              CAST(:digest AS BYTEA[]))
       AS changed (id, key, generation, incarnation, holder, domain, expires_at, digest)
WHERE  lease.id = changed.id;

-- name: scan_leases
SELECT   id, key, generation, incarnation, holder, domain, expires_at, digest
FROM     lease
WHERE    id > :after
ORDER BY id
LIMIT    :limit;
