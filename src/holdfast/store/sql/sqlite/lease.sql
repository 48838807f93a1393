-- Leases: who may act, under which generation. Rows stay for ever.

-- Inside a batch; the whole store is locked already.
-- name: lock_leases
SELECT key, generation, incarnation, holder, domain, expires_at, digest
FROM   lease
WHERE  id IN (SELECT value FROM carray(:ids));

-- name: load_leases
SELECT key, generation, incarnation, holder, domain, expires_at, digest
FROM   lease
WHERE  id IN (SELECT value FROM carray(:ids));

-- name: create_leases rows
INSERT INTO lease (id, key, generation, incarnation, holder, domain, expires_at, digest)
VALUES (:id, :key, :generation, :incarnation, :holder, :domain, :expires_at, :digest);

-- name: update_leases rows
INSERT INTO lease (id, key, generation, incarnation, holder, domain, expires_at, digest)
VALUES (:id, :key, :generation, :incarnation, :holder, :domain, :expires_at, :digest)
ON CONFLICT (id) DO UPDATE
SET    generation  = excluded.generation,
       incarnation = excluded.incarnation,
       holder      = excluded.holder,
       domain      = excluded.domain,
       expires_at  = excluded.expires_at,
       digest      = excluded.digest;

-- name: scan_leases
SELECT   id, key, generation, incarnation, holder, domain, expires_at, digest
FROM     lease
WHERE    id > :after
ORDER BY id
LIMIT    :limit;
