-- Every code with a title that the task may ask for, in training or not. A task that is closed to frequent codes
-- (data.min_frequency, data.top_codes) asks for no others.
CREATE OR REPLACE VIEW icd.dictionary AS
SELECT system, dotted(system, bare) AS code, min(title) AS description
FROM titles
WHERE bare <> '' AND system IN ({systems}) AND {open}
GROUP BY ALL;
