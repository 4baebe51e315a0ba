-- Every code of the fact table with its description, if the dictionaries have one, and its number of admissions.
WITH counted AS (
    SELECT coded.system, coded.code, count(*) AS admissions
    FROM (SELECT unnest(codes) AS coded FROM facts)
    GROUP BY ALL
),
described AS (SELECT system, dotted(system, bare) AS code, min(title) AS description FROM titles GROUP BY ALL)
SELECT system, code, description, admissions FROM counted LEFT JOIN described USING (system, code)
