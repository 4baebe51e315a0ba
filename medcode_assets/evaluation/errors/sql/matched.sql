-- Of the candidates left, those that are the first both of their missed code and of their spurious code.
SELECT example_id, system, missed, spurious, pattern
FROM analysed_candidates
QUALIFY
    place = min(place) OVER (PARTITION BY example_id, system, missed)
    AND place = min(place) OVER (PARTITION BY example_id, system, spurious)
