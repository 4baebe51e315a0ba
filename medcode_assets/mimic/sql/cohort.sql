-- Patients, those with a discharge note first, at most $num_patients of them (0: all).
-- md5 and not random(): the same seed draws the same patients on every machine and with any number of threads.
WITH noted AS (SELECT subject_id, count(*) AS discharge_notes FROM discharge_notes GROUP BY subject_id)
SELECT patients.subject_id, patients.gender, coalesce(noted.discharge_notes, 0) AS discharge_notes
FROM raw.patients AS patients LEFT JOIN noted ON noted.subject_id = patients.subject_id
ORDER BY noted.subject_id IS NULL, md5($seed || ':' || patients.subject_id), patients.subject_id
LIMIT CASE WHEN $num_patients = 0 THEN 9223372036854775807 ELSE $num_patients END
