-- One row an admission of the cohort that has a discharge note: how many notes, how long, and its codes.
WITH notes AS (
    SELECT hadm_id, min(subject_id) AS subject_id, count(*) AS notes, sum(text_characters) AS characters
    FROM discharge_notes
    WHERE subject_id IN (SELECT subject_id FROM cohort)
    GROUP BY hadm_id
)
SELECT subject_id, hadm_id, notes, characters, coalesce(codes, []) AS codes
FROM notes LEFT JOIN admission_codes USING (hadm_id)
