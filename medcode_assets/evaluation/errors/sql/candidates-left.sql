-- A code that has its counterpart takes no other.
SELECT *
FROM analysed_candidates AS candidate
ANTI JOIN analysed_near_misses AS taken USING (example_id, system, missed)
ANTI JOIN analysed_near_misses AS taken USING (example_id, system, spurious)
