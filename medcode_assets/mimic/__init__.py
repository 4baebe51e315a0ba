"""MIMIC's files to raw tables, cohort, facts and splits: table specs as data, transformations as .sql files."""
