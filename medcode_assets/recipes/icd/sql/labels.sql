-- Every code of the task, the ones that training saw first, most frequent first. An index is a column of the label matrix.
-- Codes that training never saw keep frequency 0: they cannot be predicted, but they are asked for and count as missed.
WITH counted AS (
    SELECT
        code_id,
        count(*) FILTER (split = 'train') AS frequency,
        -- What decides whether a code is asked: train alone, or all splits as the literature counts.
        count(*) FILTER (split = 'train' OR $frequency_over = 'all') AS decisive
    FROM (SELECT hadm_id, unnest(codes) AS code_id FROM facts) JOIN splits USING (hadm_id)
    GROUP BY code_id
),
ranked AS (
    SELECT *, row_number() OVER (ORDER BY decisive DESC, system, code) AS rank
    FROM counted JOIN codes USING (code_id)
    WHERE decisive >= $min_frequency AND system IN (SELECT unnest($systems))
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
FROM chosen
ORDER BY label
