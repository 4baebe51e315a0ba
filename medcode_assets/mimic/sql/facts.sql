-- One row an admission of the cohort that has a discharge note: its text and its codes.
WITH notes AS (
    -- Reports before addenda, then as written; the tie-break makes the text the same on every run.
    SELECT
        hadm_id,
        any_value(subject_id) AS subject_id,
        string_agg(text, E'\n\n' ORDER BY is_addendum, note_order, note_id) AS text,
        count(*) AS notes
    FROM discharge_notes
    WHERE subject_id IN (SELECT subject_id FROM cohort)
    GROUP BY hadm_id
),
-- Null codes dropped, a code counted once an admission, at its first rank.
distinct_codes AS (
    SELECT hadm_id, system, bare, min(kind) AS kind, min(seq_num) AS seq
    FROM coded
    WHERE bare <> '' AND subject_id IN (SELECT subject_id FROM cohort)
    GROUP BY hadm_id, system, bare
),
codes AS (
    SELECT
        hadm_id,
        list(
            {'system': system, 'code': dotted(system, bare), 'seq': seq}
            ORDER BY kind, seq NULLS LAST, system, bare
        ) AS codes
    FROM distinct_codes
    GROUP BY hadm_id
)
SELECT subject_id, hadm_id, notes, text, coalesce(codes, []) AS codes
FROM notes LEFT JOIN codes USING (hadm_id)
