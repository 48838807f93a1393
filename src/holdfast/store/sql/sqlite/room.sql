-- How much room the store takes.

-- name: size_of_store
SELECT page_count * page_size FROM pragma_page_count(), pragma_page_size();
