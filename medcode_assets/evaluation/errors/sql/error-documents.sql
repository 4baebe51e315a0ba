-- One row a document.
SELECT
    example_id,
    lengths.characters,
    whole_length,
    kept_share,
    truncated,
    coalesce(count(*) FILTER (gold), 0) AS gold,
    coalesce(count(*) FILTER (predicted), 0) AS predicted,
    coalesce(count(*) FILTER (gold AND predicted), 0) AS right,
    dropped
FROM analysed_documents
LEFT JOIN analysed_pairs USING (example_id)
LEFT JOIN analysed_lengths AS lengths USING (example_id)
GROUP BY ALL
ORDER BY example_id
