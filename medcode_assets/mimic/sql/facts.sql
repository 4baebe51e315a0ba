-- One row an admission of the cohort that has a discharge note: how many notes, how long, and its codes (code_id) in the
-- order of the record: diagnoses, procedures, billed codes, each by rank. A code counts once, at its first rank.
WITH notes AS (
    SELECT hadm_id, min(subject_id) AS subject_id, count(*) AS notes, sum(text_characters) AS characters
    FROM discharge_notes
    WHERE subject_id IN (SELECT subject_id FROM cohort)
    GROUP BY hadm_id
),
ranked AS (
    -- One number that sorts as (kind, seq_num with nulls last, code_id) does and still holds the code_id.
    SELECT
        hadm_id,
        min(((kind * 1048576 + least(coalesce(seq_num, 1048575), 1048575))::BIGINT << 32) + code_id) AS place
    FROM coded JOIN codes USING (system, bare)
    WHERE hadm_id IN (SELECT hadm_id FROM notes)
    GROUP BY hadm_id, code_id
),
grouped AS (
    SELECT hadm_id, list_transform(list_sort(list(place)), lambda place: (place & 4294967295)::INTEGER) AS codes
    FROM ranked
    GROUP BY hadm_id
)
SELECT subject_id, hadm_id, notes, characters, coalesce(codes, []) AS codes
FROM notes LEFT JOIN grouped USING (hadm_id)
