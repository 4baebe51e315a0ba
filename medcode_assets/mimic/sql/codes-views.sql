-- Views over every release's diagnoses, procedures and billed codes.

CREATE OR REPLACE VIEW coded AS
SELECT subject_id, hadm_id, 0 AS kind, seq_num, system, bare FROM diagnoses
UNION ALL
SELECT subject_id, hadm_id, 1, seq_num, system, bare FROM procedures
UNION ALL
SELECT subject_id, hadm_id, 2, seq_num, system, bare FROM billed;
