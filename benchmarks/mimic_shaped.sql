-- Made files in the shape of MIMIC-IV 3.1 with MIMIC-IV-Note 2.2: $scale = 1 has their numbers of rows.
-- Nothing in them is from MIMIC. Words are drawn by rank like those of a language and made of 50 syllables; notes of
-- about 1,500 such words pack 3:1 under gzip, as real notes do. hash() makes the same files everywhere.

CREATE TABLE counts AS SELECT
    greatest(100, (364627 * $scale)::BIGINT) AS patients,
    greatest(120, (546028 * $scale)::BIGINT) AS admissions,
    greatest(100, (331793 * $scale)::BIGINT) AS notes,
    greatest(1400, (6364488 * $scale)::BIGINT) AS diagnoses,
    greatest(190, (859655 * $scale)::BIGINT) AS procedures,
    greatest(40, (186074 * $scale)::BIGINT) AS billed;

CREATE TABLE syllables AS SELECT unnest([
    'a', 'the', 'of', 'pa', 'tient', 're', 'con', 'ment', 'al', 'in', 'hos', 'pi', 'tal', 'ic', 'ost', 'ad', 'mit',
    'ted', 'no', 'ri', 'ght', 'left', 'low', 'er', 'ex', 'am', 'ca', 'di', 'ab', 'ate', 'hy', 'per', 'ten', 'sion',
    'lo', 'gy', 'blood', 'se', 'rum', 'to', 'ly', 'ing', 'ed', 'un', 'ble', 'ro', 'mi', 'ne', 've', 'nous'
]) AS syllable, generate_subscripts(range(50), 1) - 1 AS number;

-- 8,000 words; the 60 most frequent ones are short.
CREATE TABLE words AS
SELECT word, string_agg(syllable, '' ORDER BY place) AS text
FROM (
    SELECT word, place, (hash(word * 7 + place) % 50)::BIGINT AS number
    FROM range(8000) AS words(word), range(4) AS places(place)
    WHERE place <= CASE WHEN word < 60 THEN hash(word) % 2 ELSE hash(word) % 4 END
) JOIN syllables USING (number)
GROUP BY word;

-- 60,000 sentences of 15 words; the word of rank r comes about 1/r as often as the first.
CREATE TABLE sentences AS
SELECT sentence, string_agg(text, ' ' ORDER BY place) || CASE WHEN sentence % 3 = 0 THEN chr(10) ELSE '. ' END AS text
FROM (
    SELECT sentence, place, floor(pow(8000.0, (hash(sentence * 100 + place) % 1000000) / 1000000.0))::BIGINT AS word
    FROM range(60000) AS sentences(sentence), range(15) AS places(place)
) JOIN words USING (word)
GROUP BY sentence;

-- Every note belongs to an admission of its own; the admissions without one have the highest numbers.
CREATE TABLE admitted AS
SELECT 20000000 + number AS hadm_id, 10000000 + (hash(number) % (SELECT patients FROM counts))::BIGINT AS subject_id, number
FROM range((SELECT admissions FROM counts)) AS numbers(number);

CREATE TABLE dictionary AS
SELECT number, 9 AS icd_version, lpad((number * 6)::VARCHAR, 5, '0') AS icd_code FROM range(14600) AS numbers(number)
UNION ALL
SELECT number, 10, chr((65 + number % 26)::INTEGER) || lpad((number // 26)::VARCHAR, 6, '0')
FROM range(97507) AS numbers(number);

CREATE TABLE procedure_dictionary AS
SELECT number, 9 AS icd_version, lpad((number * 2)::VARCHAR, 4, '0') AS icd_code FROM range(3900) AS numbers(number)
UNION ALL
SELECT number, 10, lpad((number * 11)::VARCHAR, 7, '0') FROM range(82523) AS numbers(number);

COPY (
    SELECT
        10000000 + number AS subject_id, CASE WHEN number % 2 = 0 THEN 'F' ELSE 'M' END AS gender,
        18 + number % 70 AS anchor_age, 2110 + number % 90 AS anchor_year, '2011 - 2013' AS anchor_year_group,
        NULL AS dod
    FROM range((SELECT patients FROM counts)) AS numbers(number)
) TO '{folder}/hosp/patients.csv' (HEADER);

COPY (
    SELECT
        subject_id, hadm_id, TIMESTAMP '2110-01-01' + to_hours((number % 700000)::BIGINT) AS admittime,
        TIMESTAMP '2110-01-04' + to_hours((number % 700000)::BIGINT) AS dischtime, NULL AS deathtime,
        'EW EMER.' AS admission_type, 'HOME' AS discharge_location, 'Medicare' AS insurance, 0 AS hospital_expire_flag
    FROM admitted
) TO '{folder}/hosp/admissions.csv' (HEADER);

-- The code of rank r comes about 1/r as often as the first; half of the admissions are coded in ICD-9.
COPY (
    SELECT subject_id, hadm_id, seq_num, icd_code, icd_version
    FROM (
        SELECT
            (number * (SELECT admissions FROM counts)) // (SELECT diagnoses FROM counts) AS admission,
            1 + number % 39 AS seq_num,
            floor(pow(14599.0, (hash(number) % 1000000) / 1000000.0))::BIGINT AS rank
        FROM range((SELECT diagnoses FROM counts)) AS numbers(number)
    ) AS drawn
    JOIN admitted ON admitted.number = drawn.admission
    JOIN dictionary ON dictionary.number = drawn.rank
        AND dictionary.icd_version = CASE WHEN admission % 2 = 0 THEN 9 ELSE 10 END
) TO '{folder}/hosp/diagnoses_icd.csv' (HEADER);

COPY (
    SELECT subject_id, hadm_id, seq_num, DATE '2110-01-02' AS chartdate, icd_code, icd_version
    FROM (
        SELECT
            (hash(number * 3) % (SELECT admissions FROM counts))::BIGINT AS admission,
            1 + number % 5 AS seq_num,
            floor(pow(3899.0, (hash(number) % 1000000) / 1000000.0))::BIGINT AS rank
        FROM range((SELECT procedures FROM counts)) AS numbers(number)
    ) AS drawn
    JOIN admitted ON admitted.number = drawn.admission
    JOIN procedure_dictionary AS dictionary ON dictionary.number = drawn.rank
        AND dictionary.icd_version = CASE WHEN admission % 2 = 0 THEN 9 ELSE 10 END
) TO '{folder}/hosp/procedures_icd.csv' (HEADER);

COPY (
    SELECT
        subject_id, hadm_id, DATE '2110-01-02' AS chartdate,
        CASE WHEN admitted.number % 3 = 0 THEN 'G0378' ELSE lpad((99200 + admitted.number % 50)::VARCHAR, 5, '0') END
            AS hcpcs_cd,
        1 AS seq_num, 'Hospital observation' AS short_description
    FROM admitted WHERE admitted.number < (SELECT billed FROM counts)
) TO '{folder}/hosp/hcpcsevents.csv' (HEADER);

COPY (
    SELECT 'G' || lpad(number::VARCHAR, 4, '0') AS code, NULL AS category, 'A made service' AS long_description,
        'Made' AS short_description
    FROM range(9000) AS numbers(number)
) TO '{folder}/hosp/d_hcpcs.csv' (HEADER);

COPY (
    SELECT icd_code, icd_version, 'A made condition of rank ' || number AS long_title FROM dictionary
) TO '{folder}/hosp/d_icd_diagnoses.csv' (HEADER);

COPY (
    SELECT icd_code, icd_version, 'A made procedure of rank ' || number AS long_title FROM procedure_dictionary
) TO '{folder}/hosp/d_icd_procedures.csv' (HEADER);

-- 85 to 115 sentences a note.
COPY (
    SELECT
        subject_id || '-DS-' || number AS note_id, subject_id, hadm_id, 'DS' AS note_type, 1 AS note_seq,
        TIMESTAMP '2110-01-04' + to_hours((number % 700000)::BIGINT) AS charttime, NULL AS storetime, text
    FROM (
        SELECT note, string_agg(text, '' ORDER BY place) AS text
        FROM (
            SELECT note, place, (hash(note * 1000 + place) % 60000)::BIGINT AS sentence
            FROM range((SELECT notes FROM counts)) AS notes(note), range(115) AS places(place)
            WHERE place < 85 + note % 31
        ) JOIN sentences USING (sentence)
        GROUP BY note
    ) AS composed
    JOIN admitted ON admitted.number = composed.note
) TO '{folder}/note/discharge.csv' (HEADER);
