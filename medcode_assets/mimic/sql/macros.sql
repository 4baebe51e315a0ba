-- How a code is written with its system's dot. The same rule as medcode_serving/codes/systems.py, set-based.
CREATE OR REPLACE MACRO dotted(system, bare) AS
    CASE
        WHEN system = 'icd9cm' AND bare LIKE 'E%' AND length(bare) > 4 THEN bare[:4] || '.' || bare[5:]
        WHEN system = 'icd9cm' AND bare NOT LIKE 'E%' AND length(bare) > 3 THEN bare[:3] || '.' || bare[4:]
        WHEN system = 'icd10cm' AND length(bare) > 3 THEN bare[:3] || '.' || bare[4:]
        WHEN system = 'icd9pcs' AND length(bare) > 2 THEN bare[:2] || '.' || bare[3:]
        ELSE bare
    END;

-- Files carry codes without dots; a stray dot or space must not make a second code.
CREATE OR REPLACE MACRO bare_code(code) AS upper(replace(trim(code), '.', ''));

-- One column holds both: HCPCS Level II begins with a letter, CPT with a digit.
CREATE OR REPLACE MACRO hcpcs_or_cpt(bare) AS CASE WHEN bare BETWEEN 'A' AND 'ZZZZZ' THEN 'hcpcs' ELSE 'cpt' END;
