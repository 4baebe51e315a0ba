-- Each missed code with each spurious one of the same document and category: which near miss that would be (the first
-- kind that fits), and its place among the document's, the most alike first. No two have one place.
WITH errors AS (
    SELECT example_id, system, category, code, gold
    FROM analysed_pairs JOIN analysed_codes USING (system, code)
    WHERE gold <> predicted
),
met AS (
    SELECT missed.example_id, system, missed.code AS missed, spurious.code AS spurious
    FROM errors AS missed JOIN errors AS spurious USING (example_id, system, category)
    WHERE missed.gold AND NOT spurious.gold
),
-- Two codes meet in many documents and are compared once.
compared AS (
    SELECT
        two.system, two.missed, two.spurious,
        g.bare AS gold, p.bare AS told,
        len(list_filter(range(1, least(len(g.bare), len(p.bare)) + 1), lambda i: g.bare[i] = p.bare[i])) AS equal,
        len(g.bare) = len(p.bare) AS one_length,
        g.plain AS gold_plain, p.plain AS told_plain,
        g.side AS gold_side, p.side AS told_side,
        g.unspecified OR starts_with(p.bare, g.bare) AS gold_unspecified,
        p.unspecified OR starts_with(g.bare, p.bare) AS told_unspecified
    FROM (SELECT DISTINCT system, missed, spurious FROM met) AS two
    JOIN analysed_codes AS g ON g.system = two.system AND g.code = two.missed
    JOIN analysed_codes AS p ON p.system = two.system AND p.code = two.spurious
),
named AS (
    SELECT
        system, missed, spurious, equal,
        CASE
            -- Both titles tell a side, not the same one, and are equal but for it; where the codes differ in one
            -- character only, one title may have a word more ("right eye", "bilateral").
            WHEN gold_side <> told_side AND NOT (gold_side = 'unspecified' AND told_side = 'unspecified')
                AND (
                    (list_has_all(gold_plain, told_plain) AND list_has_all(told_plain, gold_plain))
                    OR (
                        one_length AND equal = len(gold) - 1
                        AND (list_has_all(gold_plain, told_plain) OR list_has_all(told_plain, gold_plain))
                    )
                )
                THEN 'laterality'
            -- The 7th character: initial, subsequent, sequela. Digits there count fetuses.
            WHEN system = 'icd10cm' AND one_length AND len(gold) = 7 AND gold[:6] = told[:6]
                AND regexp_matches(gold[7] || told[7], '^[A-Z]{2}$')
                THEN 'encounter'
            WHEN told_unspecified AND NOT gold_unspecified THEN 'unspecified_for_specified'
            WHEN gold_unspecified AND NOT told_unspecified THEN 'specified_for_unspecified'
            WHEN one_length AND gold[:-2] = told[:-2] THEN 'sibling'
            ELSE 'same_category'
        END AS pattern
    FROM compared
)
SELECT
    example_id, system, missed, spurious, pattern,
    row_number() OVER (
        PARTITION BY example_id ORDER BY equal DESC, list_position($patterns, pattern), system, missed, spurious
    ) AS place
FROM met JOIN named USING (system, missed, spurious)
