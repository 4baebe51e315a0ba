-- Every code that an admission of the cohort with a note has, with its description, if the dictionaries have one.
-- Facts carry code_id: numbers are grouped and sorted several times as fast as texts.
WITH distinct_codes AS (
    SELECT DISTINCT system, bare
    FROM coded
    WHERE bare <> '' AND system IS NOT NULL AND hadm_id IN (
        SELECT hadm_id FROM discharge_notes WHERE subject_id IN (SELECT subject_id FROM cohort)
    )
),
described AS (SELECT system, bare, min(title) AS description FROM titles GROUP BY ALL)
SELECT
    CAST(row_number() OVER (ORDER BY system, bare) - 1 AS INTEGER) AS code_id,
    system,
    dotted(system, bare) AS code,
    bare,
    description
FROM distinct_codes LEFT JOIN described USING (system, bare)
