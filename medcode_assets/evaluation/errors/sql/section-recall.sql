-- Gold codes by the section that names them, and whether that section was cut from the prompt.
WITH placed AS (
    SELECT section, predicted, coalesce(list_contains(cut_sections, section), FALSE) AS cut
    FROM analysed_pairs
    JOIN analysed_documents USING (example_id)
    LEFT JOIN analysed_named USING (example_id, system, code)
    WHERE gold
)
SELECT
    section,
    count(*) AS gold,
    count(*) FILTER (predicted) AS right,
    avg(predicted::INTEGER) AS recall,
    count(*) FILTER (cut) AS cut_gold,
    count(*) FILTER (cut AND predicted) AS cut_right
FROM placed
GROUP BY section
ORDER BY gold DESC, section NULLS LAST
