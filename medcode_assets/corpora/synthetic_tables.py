"""The rows of the synthetic MIMIC's tables, in the column order of `synthetic_mimic.yaml`."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, TypeAlias

from medcode_assets.corpora.synthetic_admissions import Admission, Patient
from medcode_assets.corpora.synthetic_notes import Concept, load_concepts

Row: TypeAlias = Sequence[object]
Layout: TypeAlias = dict[str, Any]


def mimic_iv_tables(patients: Sequence[Patient], layout: Layout) -> dict[str, list[Row]]:
    """Rows of each MIMIC-IV table by its path without `.csv.gz`; codes are ICD-10."""
    values, stays = layout["values"], [(p, a) for p in patients for a in p.admissions]
    return {
        "hosp/patients": [_patient_iv(p, values) for p in patients],
        "hosp/admissions": [_admission_iv(p, a, values) for p, a in stays],
        "hosp/diagnoses_icd": [
            (p.subject_id, a.hadm_id, number, _undotted(c.icd10), 10)
            for p, a in stays
            for number, c in a.diagnosis_rows
        ],
        "hosp/procedures_icd": [
            (p.subject_id, a.hadm_id, number, a.admitted[:10], _undotted(c.icd10), 10)
            for p, a in stays
            for number, c in enumerate(a.note.procedures, 1)
        ],
        "hosp/d_icd_diagnoses": _dictionary_iv("diagnosis", layout),
        "hosp/d_icd_procedures": _dictionary_iv("procedure", layout),
        "note/discharge": [row for p in patients for row in _discharge_iv(p, layout["addenda"])],
    }


def mimic_iii_tables(patients: Sequence[Patient], layout: Layout) -> dict[str, list[Row]]:
    """Rows of each MIMIC-III table by its name without `.csv.gz`, ROW_ID first; codes are ICD-9."""
    values, stays = layout["values"], [(p, a) for p in patients for a in p.admissions]
    tables: dict[str, Iterable[Row]] = {
        "PATIENTS": (_patient_iii(p) for p in patients),
        "ADMISSIONS": (_admission_iii(p, a, values) for p, a in stays),
        "DIAGNOSES_ICD": (row for p, a in stays for row in _diagnoses_iii(p, a)),
        "PROCEDURES_ICD": (
            (p.subject_id, a.hadm_id, number, _undotted(c.icd9))
            for p, a in stays
            for number, c in enumerate(a.note.procedures, 1)
        ),
        "D_ICD_DIAGNOSES": _dictionary_iii("diagnosis", layout),
        "D_ICD_PROCEDURES": _dictionary_iii("procedure", layout),
        "NOTEEVENTS": (row for p, a in stays for row in _notes_iii(p, a, layout)),
    }
    return {name: [(number, *row) for number, row in enumerate(rows, 1)] for name, rows in tables.items()}


def _undotted(code: str) -> str:
    """MIMIC's files carry codes without the dot: E11.9 is E119."""
    return code.replace(".", "")


def _listed(kind: str, layout: Layout) -> list[Concept]:
    missing = layout["missing_from_dictionary"]
    return [c for c in load_concepts() if c.kind == kind and c.icd10 not in missing]


def _dictionary_iv(kind: str, layout: Layout) -> list[Row]:
    listed = _listed(kind, layout)
    rows: list[Row] = [(_undotted(c.icd9), 9, c.icd9_title) for c in listed]
    return rows + [(_undotted(c.icd10), 10, c.icd10_title) for c in listed]


def _dictionary_iii(kind: str, layout: Layout) -> list[Row]:
    return [(_undotted(c.icd9), c.icd9_short_title, c.icd9_title) for c in _listed(kind, layout)]


def _patient_iv(p: Patient, values: Layout) -> Row:
    group = p.pick(values["anchor_year_group"])
    return (p.subject_id, p.gender, p.anchor_age, p.anchor_year, group, p.death_time[:10])


def _patient_iii(p: Patient) -> Row:
    born = f"{p.anchor_year - p.anchor_age}-01-01 00:00:00"
    return (p.subject_id, p.gender, born, p.death_time, p.death_time, "", int(bool(p.death_time)))


def _admission_iv(p: Patient, a: Admission, values: Layout) -> Row:
    return (
        p.subject_id,
        a.hadm_id,
        a.admitted,
        a.discharged,
        a.died,
        a.pick(values["admission_type"]),
        f"P{a.hadm_id % 99991:05d}",
        a.pick(values["admission_location"]),
        "DIED" if a.died else a.pick(values["discharge_location"]),
        a.pick(values["insurance"]),
        a.pick(values["language"]),
        a.pick(values["marital_status"]),
        p.pick(values["race"]),
        a.emergency_from,
        a.emergency_to,
        int(bool(a.died)),
    )


def _admission_iii(p: Patient, a: Admission, values: Layout) -> Row:
    return (
        p.subject_id,
        a.hadm_id,
        a.admitted,
        a.discharged,
        a.died,
        a.pick(values["admission_type_iii"]),
        a.pick(values["admission_location_iii"]),
        "DEAD/EXPIRED" if a.died else a.pick(values["discharge_location_iii"]),
        a.pick(values["insurance_iii"]),
        a.pick(values["language_iii"]),
        p.pick(values["religion"]),
        a.pick(values["marital_status"]),
        p.pick(values["race"]),
        a.emergency_from,
        a.emergency_to,
        a.note.diagnoses[0].mentions[0].upper(),
        int(bool(a.died)),
        1,
    )


def _diagnoses_iii(p: Patient, a: Admission) -> Iterable[Row]:
    for number, concept in a.diagnosis_rows:
        yield (p.subject_id, a.hadm_id, number, _undotted(concept.icd9))
    if a.has_null_code:
        yield (p.subject_id, a.hadm_id, "", "")


def _discharge_iv(p: Patient, addenda: Sequence[str]) -> Iterable[Row]:
    """A patient's notes; note_seq counts them."""
    number = 0
    for stay in p.admissions:
        texts = [("DS", stay.note.text)] if stay.has_note else []
        texts += [("AD", stay.pick(addenda))] if stay.has_note and stay.has_second_note else []
        for kind, text in texts:
            number += 1
            stored = "" if stay.hadm_id % 50 == 0 else stay.discharged
            chart = stay.discharged[:10] + " 00:00:00"
            note_id = f"{p.subject_id}-{kind}-{number}"
            yield (note_id, p.subject_id, stay.hadm_id, kind, number, chart, stored, text)


def _notes_iii(p: Patient, a: Admission, layout: Layout) -> Iterable[Row]:
    """An admission's NOTEEVENTS rows; discharge summaries have no CHARTTIME in MIMIC-III."""
    texts = [("Report", a.note.text)] if a.has_note else []
    texts += [("Addendum", a.pick(layout["addenda"]))] if a.has_note and a.has_second_note else []
    # The addendum comes first: a reader that trusts the row order gets it wrong, here as in the real file.
    for description, text in reversed(texts):
        # MIMIC-III marks what was removed as [**...**] where MIMIC-IV has ___.
        marked = text.replace("___", "[**Removed**]")
        day, category = a.discharged[:10], "Discharge summary"
        yield (p.subject_id, a.hadm_id, day, "", "", category, description, "", "", marked)
    if a.has_other_note:
        category = a.pick(sorted(layout["other_notes"]))
        # Tracings read outside a stay have no admission.
        hadm_id: object = "" if category == "ECG" else a.hadm_id
        error, text = "1" if a.hadm_id % 20 == 0 else "", layout["other_notes"][category]
        start = a.admitted
        yield (p.subject_id, hadm_id, start[:10], start, start, category, "Report", "", error, text)
