-- Every code of the task, the ones that training saw first, most frequent first. An index is a column of the label matrix.
-- Codes that training never saw keep frequency 0: they cannot be predicted, but they are asked for and count as missed.
WITH occurrences AS (
    SELECT DISTINCT facts.hadm_id, splits.split, coded.system, coded.code
    FROM facts JOIN splits USING (subject_id), LATERAL (SELECT unnest(facts.codes, max_depth := 2)) AS coded
    WHERE coded.system IN (SELECT unnest($systems))
),
counted AS (
    SELECT system, code, count(*) FILTER (split = 'train') AS frequency
    FROM occurrences
    GROUP BY system, code
),
ranked AS (
    SELECT *, row_number() OVER (ORDER BY frequency DESC, system, code) AS rank
    FROM counted
    WHERE frequency >= $min_frequency
),
described AS (SELECT system, dotted(system, bare) AS code, any_value(title) AS description FROM titles GROUP BY ALL)
SELECT
    CAST(rank - 1 AS INTEGER) AS label,
    system,
    code,
    -- Two systems may share one spelling (V43.3): then the completion names the system.
    CASE WHEN count(*) OVER (PARTITION BY code) > 1 THEN system || ':' || code ELSE code END AS text,
    description,
    frequency
FROM ranked LEFT JOIN described USING (system, code)
WHERE $top_codes = 0 OR rank <= $top_codes
ORDER BY label
