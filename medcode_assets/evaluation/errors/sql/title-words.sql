-- How much each word of a gold code's title weighs, all of them 1: by how few titles of the task have it (idf).
WITH titles AS (
    SELECT system, code, unnest(title_words) AS word FROM analysed_code_facts
),
weights AS (
    SELECT word, ln(1 + (SELECT count(*) FROM analysed_code_facts) / count(*)) AS weight FROM titles GROUP BY word
)
SELECT system, code, word, weight / sum(weight) OVER (PARTITION BY system, code) AS weight
FROM titles JOIN weights USING (word)
WHERE (system, code) IN (SELECT (system, code) FROM analysed_pairs WHERE gold)
