/** A made-up discharge summary with what makes coding hard: abbreviations, denials, a relative's disease. */
export const EXAMPLE = `Service: MEDICINE   Sex: F

History of Present Illness:
74 year old F with COPD, who presented with fever and productive cough for 4 days. On arrival 96/58, 118, 86% on 2L. Chest x-ray showed a right lower lobe infiltrate. She denies chest pain. No history of asthma.

Past Medical History:
Hypertension, hyperlipidemia, hypothyroidism
T2DM on metformin

Family History:
Father had a stroke.

Brief Hospital Course:
# Community-acquired pneumonia: treated with ceftriaxone and azithromycin, afebrile since day 3.
# AKI: creatinine 2.1 on admission, likely from poor intake; back to 0.9 after fluids. Metformin was held.
# Afib with RVR, new: rate controlled with metoprolol, apixaban started.
Hypokalemia was repleted.

Major Procedures:
None.

Discharge Medications:
amoxicillin-clavulanate, metoprolol, apixaban, levothyroxine, lisinopril, atorvastatin

Discharge Instructions:
You were treated for an infection of the lung. Please see your doctor within one week.
`;
