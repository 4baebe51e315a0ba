-- Patients to train, validation and test so that the carriers of every rare code are shared out 80/10/10, too:
-- patients in the order of their rarest code, every tenth to validation and every tenth to test. By patient, as
-- random; the idea is Sechidis et al. 2011 (the rarest label decides first), in one pass over sets.
WITH carried AS (SELECT DISTINCT subject_id, unnest(codes) AS code_id FROM facts),
counted AS (SELECT code_id, count(*) AS patients FROM carried GROUP BY code_id),
rarest AS (
    SELECT subject_id, min((patients, code_id)) AS stratum
    FROM carried JOIN counted USING (code_id)
    GROUP BY subject_id
),
ordered AS (
    SELECT
        subject_id,
        -- The seed also decides where counting begins, or the rarest codes would all lie in train.
        row_number() OVER (ORDER BY stratum NULLS LAST, md5('split:' || $seed || ':' || subject_id), subject_id)
            + ('0x' || md5('split:' || $seed)[:4])::INTEGER AS position
    FROM (SELECT DISTINCT subject_id FROM facts) LEFT JOIN rarest USING (subject_id)
),
assigned AS (
    SELECT subject_id, CASE position % 10 WHEN 4 THEN 'validation' WHEN 9 THEN 'test' ELSE 'train' END AS split
    FROM ordered
)
SELECT subject_id, hadm_id, split FROM facts JOIN assigned USING (subject_id)
