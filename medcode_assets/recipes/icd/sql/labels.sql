-- Every code of the task, the ones that training saw first, most frequent first. An index is a column of the label matrix.
-- Codes that training never saw keep frequency 0: they cannot be predicted, but they are asked for and count as missed.
WITH occurrences AS (
    -- facts has a code once an admission
    SELECT splits.split, coded.system, coded.code
    FROM facts JOIN splits USING (hadm_id), LATERAL (SELECT unnest(facts.codes, max_depth := 2)) AS coded
    WHERE coded.system IN (SELECT unnest($systems))
),
counted AS (
    SELECT
        system,
        code,
        count(*) FILTER (split = 'train') AS frequency,
        -- What decides whether a code is asked: train alone, or all splits as the literature counts.
        count(*) FILTER (split = 'train' OR $frequency_over = 'all') AS decisive
    FROM occurrences
    GROUP BY system, code
),
ranked AS (
    SELECT *, row_number() OVER (ORDER BY decisive DESC, system, code) AS rank
    FROM counted
    WHERE decisive >= $min_frequency
),
chosen AS (
    SELECT *, row_number() OVER (ORDER BY frequency DESC, system, code) - 1 AS label
    FROM ranked
    WHERE $top_codes = 0 OR rank <= $top_codes
)
SELECT
    CAST(label AS INTEGER) AS label,
    system,
    code,
    -- Two systems may share one spelling (V43.3): then the completion names the system.
    CASE WHEN count(*) OVER (PARTITION BY code) > 1 THEN system || ':' || code ELSE code END AS text,
    description,
    frequency
FROM chosen JOIN codes USING (system, code)
ORDER BY label
