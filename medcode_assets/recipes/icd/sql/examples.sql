-- One row an admission with at least one code of the task: its gold labels in the order of the record, and the answer
-- that training teaches (only codes that training saw; none where there is none).
WITH coded AS (
    SELECT facts.hadm_id, facts.subject_id, unnest(facts.codes) AS entry, generate_subscripts(facts.codes, 1) AS position
    FROM facts
)
SELECT
    coded.hadm_id AS example_id,
    coded.subject_id,
    splits.split,
    list(labels.label ORDER BY coded.position) AS gold,
    coalesce(list(labels.text ORDER BY coded.position) FILTER (labels.frequency > 0), []) AS answer
FROM coded
JOIN splits ON splits.hadm_id = coded.hadm_id
JOIN icd.labels AS labels ON labels.system = coded.entry.system AND labels.code = coded.entry.code
GROUP BY coded.hadm_id, coded.subject_id, splits.split
