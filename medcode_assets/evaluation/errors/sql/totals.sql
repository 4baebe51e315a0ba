-- Everything counted once.
WITH documents AS (
    SELECT
        count(*) AS documents,
        sum(gold)::BIGINT AS gold,
        sum(predicted)::BIGINT AS predicted,
        sum("right")::BIGINT AS right,
        count(*) FILTER (predicted > gold) AS over_coded,
        count(*) FILTER (predicted < gold) AS under_coded,
        avg(predicted - gold) AS mean_surplus,
        avg((predicted > 2 * gold)::INTEGER) AS twice_as_many,
        count(*) FILTER (predicted = 0) AS without_codes,
        coalesce(sum(gold) FILTER (predicted = 0), 0)::BIGINT AS gold_without_codes,
        count(*) FILTER (dropped > 0) AS with_dropped,
        coalesce(sum(dropped), 0)::BIGINT AS dropped
    FROM analysed_error_documents
),
pairs AS (
    SELECT
        count(*) FILTER (predicted AND NOT listed) AS outside_vocabulary,
        count(*) FILTER (predicted AND NOT valid) AS malformed,
        count(*) FILTER (gold AND told AND NOT predicted) AS below_threshold
    FROM analysed_pairs JOIN analysed_codes USING (system, code)
),
silent AS (
    SELECT count(*) AS silent_codes, coalesce(sum(gold), 0)::BIGINT AS silent_pairs
    FROM (
        SELECT count(*) FILTER (gold) AS gold
        FROM analysed_pairs JOIN analysed_codes USING (system, code)
        WHERE frequency > 0
        GROUP BY system, code
        HAVING NOT bool_or(predicted)
    )
)
SELECT
    *,
    gold - "right" AS missed,
    predicted - "right" AS spurious,
    coalesce(2 * "right" / nullif(gold + predicted, 0), 0) AS micro_f1,
    coalesce(predicted / nullif(gold, 0), 0) AS verbosity
FROM documents, pairs, silent
