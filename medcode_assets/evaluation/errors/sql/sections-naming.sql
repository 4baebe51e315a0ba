-- For each gold code of some documents, the section with most of its title's words; of equals, the first.
WITH found AS (
    SELECT DISTINCT example_id, place, section, word FROM analysed_found
),
-- A word is in many titles: only those that its document is asked for are of interest, and they are few.
asked AS MATERIALIZED (
    SELECT example_id, system, code, word, weight
    FROM (FROM analysed_pairs SEMI JOIN analysed_found USING (example_id) WHERE gold)
    JOIN analysed_title_words USING (system, code)
)
SELECT example_id, system, code, arg_max(section, (weight, -place)) AS section
FROM (
    SELECT example_id, system, code, place, section, sum(weight) AS weight
    FROM found JOIN asked USING (example_id, word)
    GROUP BY ALL
)
-- Less than half of a title does not name it: words such as "chronic" or "disease" are in every note. A hair less, for
-- sums of weights are not exact.
WHERE weight > $least - 1e-9
GROUP BY ALL
