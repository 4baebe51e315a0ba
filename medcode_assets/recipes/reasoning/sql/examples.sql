-- Stage 2's narratives, each with the one code that it asks for and the answer that training teaches.
SELECT example_id, subject_id, split, [label] AS gold, CASE WHEN frequency > 0 THEN [completion] ELSE [] END AS answer
FROM reasoning.stage_2 JOIN reasoning.labels USING (system, code)
