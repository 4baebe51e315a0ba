-- MIMIC-IV in the terms that every release shares: discharge_notes, coded, titles.

CREATE OR REPLACE VIEW discharge_notes AS
SELECT
    subject_id,
    hadm_id,
    note_type = 'AD' AS is_addendum,
    CAST(note_seq AS BIGINT) AS note_order,
    note_id,
    text
FROM raw.notes
WHERE hadm_id IS NOT NULL AND trim(text) <> '';

CREATE OR REPLACE VIEW coded AS
SELECT subject_id, hadm_id, 0 AS kind, seq_num, 'icd' || icd_version || 'cm' AS system, bare_code(icd_code) AS bare
FROM raw.diagnoses_icd
UNION ALL
SELECT subject_id, hadm_id, 1, seq_num, 'icd' || icd_version || 'pcs', bare_code(icd_code)
FROM raw.procedures_icd;

CREATE OR REPLACE VIEW titles AS
SELECT 'icd' || icd_version || 'cm' AS system, bare_code(icd_code) AS bare, long_title AS title
FROM raw.d_icd_diagnoses
UNION ALL
SELECT 'icd' || icd_version || 'pcs', bare_code(icd_code), long_title
FROM raw.d_icd_procedures;
