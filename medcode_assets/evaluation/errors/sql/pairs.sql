-- Every (document, code) that is gold or predicted, once. A code that was told twice has its higher probability.
WITH asked AS (
    SELECT DISTINCT example_id, system, code, TRUE AS gold
    FROM (
        SELECT example_id, unnest(gold) AS label FROM analysed_examples SEMI JOIN analysed_documents USING (example_id)
    )
    JOIN analysed_labels USING (label)
),
told AS (
    SELECT
        hadm_id AS example_id, system, code, TRUE AS told,
        coalesce(bool_or(kept), FALSE) AS predicted,
        max(probability) AS probability
    FROM analysed_answers
    WHERE code IS NOT NULL
    GROUP BY ALL
)
SELECT
    example_id, system, code, probability,
    coalesce(gold, FALSE) AS gold,
    coalesce(told, FALSE) AS told,
    coalesce(predicted, FALSE) AS predicted
FROM asked FULL JOIN told USING (example_id, system, code)
WHERE gold OR predicted
