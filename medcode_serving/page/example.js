/** A made-up discharge summary with what makes coding hard: a denial, a relative's disease, a disease named twice. */
export const EXAMPLE = `Name: ___  Sex: F  Service: MEDICINE

Chief Complaint:
fever, cough

History of Present Illness:
Ms. ___ is a 74 yo F with chronic obstructive pulmonary disease who presented with cough. Labs pointed to acute kidney injury. On arrival 96/58, 118, 86% 2L. She denies chest pain. No evidence of pulmonary embolism.

Past Medical History:
Hypertension, type 2 diabetes mellitus

Family History:
Father had a stroke.

Brief Hospital Course:
Pneumonia was treated and improved by day 3.
Ms. ___ also developed atrial fibrillation.

Major Procedures:
Hemodialysis on ___

Discharge Medications:
metoprolol 25 mg PO BID

Discharge Instructions:
See your doctor about your infection of the lung in 7 days.
`;
