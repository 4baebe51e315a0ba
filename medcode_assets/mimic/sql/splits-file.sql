-- Admissions to splits as a published file says (published_splits: key, id, split). Those it does not name are left out.
WITH keyed AS (
    SELECT subject_id, hadm_id, 'subject_id' AS key, CAST(subject_id AS VARCHAR) AS id FROM facts
    UNION ALL
    SELECT subject_id, hadm_id, 'hadm_id', CAST(hadm_id AS VARCHAR) FROM facts
    UNION ALL
    SELECT facts.subject_id, hadm_id, 'note_id', CAST(note_id AS VARCHAR)
    FROM facts JOIN discharge_notes USING (hadm_id)
)
SELECT DISTINCT keyed.subject_id, keyed.hadm_id, published_splits.split
FROM keyed JOIN published_splits USING (key, id)
