-- The codes of each admission of the cohort, in one list: diagnoses, procedures, billed, each by rank.
-- Null codes are dropped; a code counts once an admission, at its first rank.
CREATE OR REPLACE VIEW admission_codes AS
WITH distinct_codes AS (
    SELECT hadm_id, system, bare, min(kind) AS kind, min(seq_num) AS seq
    FROM coded
    WHERE bare <> '' AND hadm_id IS NOT NULL AND subject_id IN (SELECT subject_id FROM cohort)
    GROUP BY hadm_id, system, bare
)
SELECT
    hadm_id,
    -- Structs sort by their fields from left to right, nulls last: three times as fast as list(... ORDER BY ...).
    list_sort(list({'kind': kind, 'seq': seq, 'system': system, 'code': dotted(system, bare)})) AS codes
FROM distinct_codes
GROUP BY hadm_id;
