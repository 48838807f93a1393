-- How much room the store takes.

-- name: size_of_store
SELECT COALESCE(SUM(pg_total_relation_size(oid)), 0)::BIGINT
FROM   pg_class
WHERE  relkind = 'r' AND relnamespace = current_schema()::REGNAMESPACE;
