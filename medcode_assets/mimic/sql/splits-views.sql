-- Each split's full dataset: SELECT * FROM train.
CREATE OR REPLACE VIEW train AS
SELECT splits.subject_id, hadm_id, text, coalesce(codes, []) AS codes
FROM splits JOIN documents USING (hadm_id) LEFT JOIN admission_codes USING (hadm_id)
WHERE split = 'train';

CREATE OR REPLACE VIEW validation AS
SELECT splits.subject_id, hadm_id, text, coalesce(codes, []) AS codes
FROM splits JOIN documents USING (hadm_id) LEFT JOIN admission_codes USING (hadm_id)
WHERE split = 'validation';

CREATE OR REPLACE VIEW test AS
SELECT splits.subject_id, hadm_id, text, coalesce(codes, []) AS codes
FROM splits JOIN documents USING (hadm_id) LEFT JOIN admission_codes USING (hadm_id)
WHERE split = 'test';
