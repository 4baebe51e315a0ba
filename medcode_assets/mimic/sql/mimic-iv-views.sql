-- MIMIC-IV in the terms that every release shares.

CREATE OR REPLACE VIEW discharge_notes AS
SELECT
    subject_id,
    hadm_id,
    coalesce(note_type = 'AD', false) AS is_addendum,
    CAST(note_seq AS BIGINT) AS note_order,
    note_id,
    text_characters,
    text_hash,
    text
FROM raw.notes
WHERE hadm_id IS NOT NULL AND text_characters > 0;

CREATE OR REPLACE VIEW diagnoses AS
SELECT subject_id, hadm_id, seq_num, 'icd' || icd_version || 'cm' AS system, bare_code(icd_code) AS bare
FROM raw.diagnoses_icd;

CREATE OR REPLACE VIEW procedures AS
SELECT subject_id, hadm_id, seq_num, 'icd' || icd_version || 'pcs' AS system, bare_code(icd_code) AS bare
FROM raw.procedures_icd;

CREATE OR REPLACE VIEW billed AS
SELECT subject_id, hadm_id, seq_num, hcpcs_or_cpt(bare_code(hcpcs_cd)) AS system, bare_code(hcpcs_cd) AS bare
FROM raw.hcpcsevents;

CREATE OR REPLACE VIEW titles AS
SELECT 'icd' || icd_version || 'cm' AS system, bare_code(icd_code) AS bare, long_title AS title
FROM raw.d_icd_diagnoses
UNION ALL
SELECT 'icd' || icd_version || 'pcs', bare_code(icd_code), long_title
FROM raw.d_icd_procedures
UNION ALL
SELECT hcpcs_or_cpt(bare_code(code)), bare_code(code), coalesce(long_description, short_description)
FROM raw.d_hcpcs;
