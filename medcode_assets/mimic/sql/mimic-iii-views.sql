-- MIMIC-III in the terms that every release shares: discharge_notes, coded, titles. All its codes are ICD-9.

CREATE OR REPLACE VIEW discharge_notes AS
SELECT
    subject_id,
    hadm_id,
    description = 'Addendum' AS is_addendum,
    epoch_ms(chartdate) AS note_order, -- charttime is always null for discharge summaries
    row_id AS note_id,
    text
FROM raw.notes
WHERE hadm_id IS NOT NULL AND trim(text) <> '' AND coalesce(iserror, '') <> '1';

CREATE OR REPLACE VIEW coded AS
SELECT subject_id, hadm_id, 0 AS kind, seq_num, 'icd9cm' AS system, bare_code(icd9_code) AS bare
FROM raw.diagnoses_icd
UNION ALL
SELECT subject_id, hadm_id, 1, seq_num, 'icd9pcs', bare_code(icd9_code)
FROM raw.procedures_icd;

CREATE OR REPLACE VIEW titles AS
SELECT 'icd9cm' AS system, bare_code(icd9_code) AS bare, long_title AS title FROM raw.d_icd_diagnoses
UNION ALL
SELECT 'icd9pcs', bare_code(icd9_code), long_title FROM raw.d_icd_procedures;
