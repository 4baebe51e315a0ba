-- Patients to train, validation and test, 80/10/10, over all code systems at once: no patient is on both sides.
WITH patients AS (SELECT DISTINCT subject_id FROM facts),
ranked AS (
    SELECT
        subject_id,
        row_number() OVER (ORDER BY md5('split:' || $seed || ':' || subject_id), subject_id) AS rank,
        count(*) OVER () AS patients
    FROM patients
),
assigned AS (
    SELECT
        subject_id,
        CASE
            WHEN rank <= round(0.8 * patients) THEN 'train'
            WHEN rank <= round(0.9 * patients) THEN 'validation'
            ELSE 'test'
        END AS split
    FROM ranked
)
SELECT subject_id, hadm_id, split FROM facts JOIN assigned USING (subject_id)
