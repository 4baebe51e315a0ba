-- The codes with most errors of one kind, and what stood in their place most often.
WITH counted AS (
    SELECT
        system, code,
        count(*) FILTER (gold AND NOT predicted) AS missed,
        count(*) FILTER (predicted AND NOT gold) AS spurious,
        count(*) FILTER (gold) AS gold,
        count(*) FILTER (predicted) AS predicted
    FROM analysed_pairs
    GROUP BY system, code
),
paired AS (
    SELECT system, code, counterpart, count(*) AS counterpart_count
    FROM analysed_errors
    WHERE kind = $kind AND counterpart IS NOT NULL
    GROUP BY system, code, counterpart
    QUALIFY row_number() OVER (PARTITION BY system, code ORDER BY counterpart_count DESC, counterpart) = 1
)
SELECT
    system, code, description,
    CASE WHEN $kind = 'missed' THEN missed ELSE spurious END AS count,
    gold, predicted, frequency, counterpart,
    coalesce(counterpart_count, 0) AS counterpart_count
FROM counted
JOIN analysed_codes USING (system, code)
LEFT JOIN paired USING (system, code)
WHERE count > 0
ORDER BY count DESC, system, code
LIMIT $most
