-- What the fact table is read through.

-- The codes of each admission, written out, in the order of the record.
CREATE OR REPLACE VIEW admission_codes AS
WITH placed AS (
    SELECT hadm_id, unnest(codes) AS code_id, generate_subscripts(codes, 1) AS position FROM facts
)
SELECT hadm_id, list({'system': system, 'code': code} ORDER BY position) AS codes
FROM placed JOIN codes USING (code_id)
GROUP BY hadm_id;

-- In how many admissions each code is.
CREATE OR REPLACE VIEW code_counts AS
SELECT system, code, description, admissions
FROM (SELECT code_id, count(*) AS admissions FROM (SELECT unnest(codes) AS code_id FROM facts) GROUP BY code_id)
JOIN codes USING (code_id);

-- An admission's text. It is stored once, in raw.notes. Nearly all admissions have one note, whose text streams
-- through; only the others are put together.
CREATE OR REPLACE VIEW documents AS
SELECT facts.subject_id, facts.hadm_id, discharge_notes.text
FROM discharge_notes
JOIN facts ON facts.hadm_id = discharge_notes.hadm_id AND facts.subject_id = discharge_notes.subject_id
WHERE facts.notes = 1
UNION ALL
-- Reports before addenda, then as written; the tie-break makes the text the same on every run.
SELECT
    facts.subject_id,
    facts.hadm_id,
    string_agg(discharge_notes.text, E'\n\n' ORDER BY is_addendum, note_order, note_id)
FROM discharge_notes
JOIN facts ON facts.hadm_id = discharge_notes.hadm_id AND facts.subject_id = discharge_notes.subject_id
WHERE facts.notes > 1
GROUP BY facts.subject_id, facts.hadm_id;
