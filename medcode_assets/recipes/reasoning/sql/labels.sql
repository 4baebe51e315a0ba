-- Every code that the first two stages teach, the most frequent first. An index is a row of codes.parquet.
-- A code's text is the line that answers write; where sources describe it differently, the description most often used.
WITH described AS (
    SELECT system, code, split, description FROM reasoning.stage_1
    UNION ALL
    SELECT system, code, split, description FROM reasoning.stage_2
),
counted AS (
    SELECT system, code, mode(description) AS description, count(*) FILTER (split = 'train') AS frequency
    FROM described
    GROUP BY system, code
)
SELECT
    CAST(row_number() OVER (ORDER BY frequency DESC, system, code) - 1 AS INTEGER) AS label,
    system,
    code,
    marker || ' ' || code || CASE WHEN description IS NULL THEN '' ELSE ' (' || description || ')' END AS text,
    description,
    frequency
FROM counted
JOIN (SELECT unnest($systems) AS system, unnest($markers) AS marker) USING (system)
ORDER BY label
