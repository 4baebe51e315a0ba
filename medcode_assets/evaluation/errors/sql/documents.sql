-- The documents that were answered, and how much of each the engine read.
WITH answered AS (
    SELECT hadm_id AS example_id, bool_or(truncated) AS truncated, max(dropped) AS dropped
    FROM analysed_answers
    GROUP BY hadm_id
)
SELECT
    answered.*,
    tokens.whole_length,
    -- An engine that does not shorten reads all, whatever the tokens say. Null: nobody counted.
    CASE WHEN NOT answered.truncated THEN 1 ELSE len(tokens.prompt_ids) / tokens.whole_length END AS kept_share,
    CASE WHEN answered.truncated THEN coalesce(tokens.cut_sections, []) ELSE [] END AS cut_sections
FROM answered
LEFT JOIN analysed_tokens AS tokens USING (example_id)
