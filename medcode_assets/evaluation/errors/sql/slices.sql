-- Pairs by what they have in common. A bucket holds values from `low` up to, not with, `high`; -1 is: not known.
WITH buckets(kind, name, title, low, high) AS (
    VALUES
        ('tokens', 'tokens:1-1024', 'up to 1,024 tokens', 0, 1025),
        ('tokens', 'tokens:1025-2048', '1,025 to 2,048 tokens', 1025, 2049),
        ('tokens', 'tokens:2049-4096', '2,049 to 4,096 tokens', 2049, 4097),
        ('tokens', 'tokens:4097-8192', '4,097 to 8,192 tokens', 4097, 8193),
        ('tokens', 'tokens:over-8192', 'over 8,192 tokens', 8193, 'infinity'::DOUBLE),
        ('tokens', 'tokens:unknown', 'not tokenized: no code that training saw', -1, 0),
        ('cut', 'cut:none', 'read whole', 0, 1e-9),
        ('cut', 'cut:under-10', 'cut by less than 10 %', 1e-9, 10),
        ('cut', 'cut:10-30', 'cut by 10 to 30 %', 10, 30),
        ('cut', 'cut:30-60', 'cut by 30 to 60 %', 30, 60),
        ('cut', 'cut:over-60', 'cut by 60 % or more', 60, 101),
        ('cut', 'cut:unknown', 'cut, not known by how much', -1, 0),
        ('codes', 'codes:0', 'no gold code', 0, 1),
        ('codes', 'codes:1-5', '1 to 5 gold codes', 1, 6),
        ('codes', 'codes:6-10', '6 to 10 gold codes', 6, 11),
        ('codes', 'codes:11-15', '11 to 15 gold codes', 11, 16),
        ('codes', 'codes:16-20', '16 to 20 gold codes', 16, 21),
        ('codes', 'codes:21-30', '21 to 30 gold codes', 21, 31),
        ('codes', 'codes:over-30', 'over 30 gold codes', 31, 'infinity'::DOUBLE),
        -- Named as in medcode_assets/evaluation/groups.py.
        ('frequency', 'frequency:unseen', 'codes that training never saw', 0, 1),
        ('frequency', 'frequency:1-10', 'codes of 1 to 10 training documents', 1, 11),
        ('frequency', 'frequency:11-50', 'codes of 11 to 50 training documents', 11, 51),
        ('frequency', 'frequency:51-100', 'codes of 51 to 100 training documents', 51, 101),
        ('frequency', 'frequency:101-500', 'codes of 101 to 500 training documents', 101, 501),
        ('frequency', 'frequency:over-500', 'codes of over 500 training documents', 501, 'infinity'::DOUBLE)
),
described AS (
    SELECT
        pairs.example_id, pairs.gold, pairs.predicted,
        coalesce(documents.whole_length, -1)::DOUBLE AS tokens,
        coalesce(100 * (1 - documents.kept_share), -1)::DOUBLE AS cut,
        documents.gold::DOUBLE AS codes,
        codes.frequency::DOUBLE AS frequency
    FROM analysed_pairs AS pairs
    JOIN analysed_error_documents AS documents USING (example_id)
    JOIN analysed_codes AS codes USING (system, code)
),
counted AS (
    SELECT
        kind, name, title, low,
        count(DISTINCT example_id) AS documents,
        count(*) FILTER (gold) AS gold,
        count(*) FILTER (predicted) AS predicted,
        count(*) FILTER (gold AND predicted) AS right
    FROM (UNPIVOT described ON tokens, cut, codes, frequency INTO NAME kind VALUE value)
    JOIN buckets USING (kind)
    WHERE value >= low AND value < high
    GROUP BY kind, name, title, low
)
SELECT
    kind, name, title, documents, gold, predicted, "right",
    coalesce("right" / nullif(predicted, 0), 0) AS precision,
    coalesce("right" / nullif(gold, 0), 0) AS recall,
    coalesce(2 * "right" / nullif(gold + predicted, 0), 0) AS f1
FROM counted
ORDER BY list_position(['tokens', 'cut', 'codes', 'frequency'], kind), low
