-- One row an admission with at least one code of the task: its gold labels in the order of the record, and the answer
-- that training teaches (only codes that training saw; none where there is none).
WITH asked AS (
    SELECT code_id, label, text, frequency FROM icd.labels JOIN codes USING (system, code)
),
coded AS (
    SELECT hadm_id, subject_id, unnest(codes) AS code_id, generate_subscripts(codes, 1) AS position FROM facts
)
SELECT
    coded.hadm_id AS example_id,
    coded.subject_id,
    splits.split,
    list(asked.label ORDER BY coded.position) AS gold,
    coalesce(list(asked.text ORDER BY coded.position) FILTER (asked.frequency > 0), []) AS answer
FROM coded
JOIN splits ON splits.hadm_id = coded.hadm_id
JOIN asked ON asked.code_id = coded.code_id
GROUP BY coded.hadm_id, coded.subject_id, splits.split
