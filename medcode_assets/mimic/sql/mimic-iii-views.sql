-- MIMIC-III in the terms that every release shares. All its diagnoses and procedures are ICD-9.

CREATE OR REPLACE VIEW discharge_notes AS
SELECT
    subject_id,
    hadm_id,
    coalesce(description = 'Addendum', false) AS is_addendum,
    epoch_ms(chartdate) AS note_order, -- charttime is always null for discharge summaries
    row_id AS note_id,
    text_characters,
    text_hash,
    text
FROM raw.notes
WHERE hadm_id IS NOT NULL AND text_characters > 0 AND coalesce(iserror, '') <> '1';

CREATE OR REPLACE VIEW diagnoses AS
SELECT subject_id, hadm_id, seq_num, 'icd9cm' AS system, bare_code(icd9_code) AS bare
FROM raw.diagnoses_icd;

CREATE OR REPLACE VIEW procedures AS
SELECT subject_id, hadm_id, seq_num, 'icd9pcs' AS system, bare_code(icd9_code) AS bare
FROM raw.procedures_icd;

CREATE OR REPLACE VIEW billed AS
SELECT subject_id, hadm_id, ticket_id_seq AS seq_num, hcpcs_or_cpt(bare_code(cpt_cd)) AS system, bare_code(cpt_cd) AS bare
FROM raw.hcpcsevents;

CREATE OR REPLACE VIEW titles AS
SELECT 'icd9cm' AS system, bare_code(icd9_code) AS bare, long_title AS title FROM raw.d_icd_diagnoses
UNION ALL
SELECT 'icd9pcs', bare_code(icd9_code), long_title FROM raw.d_icd_procedures;
