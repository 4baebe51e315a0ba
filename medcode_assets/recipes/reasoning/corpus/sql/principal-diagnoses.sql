-- Each admission of the cohort whose principal diagnosis is an ICD-10-CM code, with its text, in an order that has
-- nothing to do with time or patient: whoever takes the first thousand takes a sample.
WITH ranked AS (
    -- A rank twice in the record: the tie-break makes the choice the same on every run.
    SELECT hadm_id, arg_min({'system': system, 'bare': bare}, (seq_num, bare)) AS principal
    FROM diagnoses
    WHERE seq_num IS NOT NULL AND bare <> '' AND hadm_id IN (SELECT hadm_id FROM facts)
    GROUP BY hadm_id
),
described AS (SELECT bare, min(title) AS description FROM titles WHERE system = 'icd10cm' GROUP BY bare)
SELECT
    documents.subject_id,
    dotted('icd10cm', principal.bare) AS code,
    described.description,
    documents.text
FROM ranked
JOIN documents USING (hadm_id)
LEFT JOIN described ON described.bare = principal.bare
WHERE principal.system = 'icd10cm'
ORDER BY md5('reasoning:' || hadm_id), hadm_id
