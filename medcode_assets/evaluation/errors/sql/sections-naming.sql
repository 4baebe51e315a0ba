-- For each gold code of some documents, the section with most of its title's words; of equals, the first.
SELECT example_id, system, code, arg_max(section, (weight, -place)) AS section
FROM (
    SELECT example_id, system, code, place, section, sum(weight) AS weight
    FROM analysed_found
    JOIN analysed_title_words USING (word)
    JOIN analysed_pairs USING (example_id, system, code)
    WHERE gold
    GROUP BY ALL
)
-- Less than half of a title does not name it: words such as "chronic" or "disease" are in every note. A hair less, for
-- sums of weights are not exact.
WHERE weight > $least - 1e-9
GROUP BY ALL
