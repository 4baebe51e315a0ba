-- One row an error, for drilling down: join it with the notes, which stay in the warehouse.
SELECT
    example_id, system, code,
    CASE WHEN gold THEN 'missed' ELSE 'spurious' END AS kind,
    coalesce(as_missed.pattern, as_spurious.pattern) AS near_miss,
    coalesce(as_missed.spurious, as_spurious.missed) AS counterpart,
    codes.frequency,
    probability,
    named.section
FROM analysed_pairs AS pairs
JOIN analysed_codes AS codes USING (system, code)
LEFT JOIN analysed_named AS named USING (example_id, system, code)
LEFT JOIN analysed_near_misses AS as_missed
    ON pairs.gold
    AND (as_missed.example_id, as_missed.system, as_missed.missed) = (pairs.example_id, pairs.system, pairs.code)
LEFT JOIN analysed_near_misses AS as_spurious
    ON NOT pairs.gold
    AND (as_spurious.example_id, as_spurious.system, as_spurious.spurious) = (pairs.example_id, pairs.system, pairs.code)
WHERE gold <> predicted
ORDER BY example_id, kind, system, code
