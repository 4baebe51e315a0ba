-- An admission's text. It is stored once, in raw.notes. Nearly all admissions have one note, whose text streams
-- through; only the others are put together.
CREATE OR REPLACE VIEW documents AS
SELECT facts.subject_id, facts.hadm_id, discharge_notes.text
FROM discharge_notes JOIN facts ON facts.hadm_id = discharge_notes.hadm_id
WHERE facts.notes = 1
UNION ALL
-- Reports before addenda, then as written; the tie-break makes the text the same on every run.
SELECT
    facts.subject_id,
    facts.hadm_id,
    string_agg(discharge_notes.text, E'\n\n' ORDER BY is_addendum, note_order, note_id)
FROM discharge_notes JOIN facts ON facts.hadm_id = discharge_notes.hadm_id
WHERE facts.notes > 1
GROUP BY facts.subject_id, facts.hadm_id;
