-- What the patterns ask of each code that occurs. `plain` is its title without the words that tell a side, and without
-- those that go with them.
WITH known AS (
    SELECT
        facts.*,
        labels.description,
        labels.label IS NOT NULL AS listed,
        coalesce(labels.frequency, 0) AS frequency
    FROM analysed_code_facts AS facts LEFT JOIN analysed_labels AS labels USING (system, code)
)
SELECT
    *,
    CASE
        WHEN list_contains(words, 'bilateral') THEN 'bilateral'
        WHEN list_contains(words, 'right') THEN 'right'
        WHEN list_contains(words, 'left') THEN 'left'
        WHEN list_contains(words, 'unspecified') THEN 'unspecified'
    END AS side,
    list_filter(
        words,
        lambda word: word NOT IN (
            'left', 'right', 'bilateral', 'unilateral', 'unspecified', 'side', 'dominant', 'nondominant', 'non',
            'of', 'in', 'the'
        )
    ) AS plain,
    regexp_matches(coalesce(lower(description), ''), '\bunspecified\b|\bnos\b|\bnot otherwise specified\b')
    -- E11.9, 401.9: the rest of its category, unless the title names it "other".
    OR (
        system IN ('icd9cm', 'icd10cm') AND bare = category || '9'
        AND NOT regexp_matches(coalesce(lower(description), ''), '\bother\b')
    ) AS unspecified
FROM known
