-- The pairs of codes behind each kind of near miss, the most frequent first, and how many there are of the kind.
SELECT
    pattern, system, missed AS gold, spurious AS predicted,
    count(*) AS count,
    sum(count(*)) OVER (PARTITION BY pattern)::BIGINT AS pairs
FROM analysed_near_misses
GROUP BY pattern, system, missed, spurious
QUALIFY row_number() OVER (PARTITION BY pattern ORDER BY count DESC, system, gold, predicted) <= $most
ORDER BY pattern, count DESC, system, gold, predicted
