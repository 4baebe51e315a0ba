"""Gives synthetic notes a life around them: patients, admissions, dates, and the flaws of real tables."""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from medcode_assets.corpora.synthetic_notes import Concept, SyntheticNote, generate_notes

RETURN_CHANCE = 0.24  # of a note being a known patient's: about 1.3 admissions a patient, as in MIMIC
MOST_ADMISSIONS = 3


@dataclass
class Admission:
    """One hospital stay. Times are `YYYY-MM-DD HH:MM:SS`, empty where null; flags are its flaws."""

    hadm_id: int
    note: SyntheticNote
    admitted: str
    discharged: str
    died: str
    emergency_from: str
    emergency_to: str
    has_note: bool
    has_second_note: bool
    has_null_code: bool
    has_other_note: bool
    # (seq_num, concept) in the order of the file, not of seq_num; a repeated code has a later seq_num.
    diagnosis_rows: tuple[tuple[int, Concept], ...]

    def pick(self, values: Sequence[str]) -> str:
        """One of `values`, fixed for this admission: attributes need no order of drawing."""
        return random.Random(f"{self.hadm_id} {values}").choice(values)


@dataclass
class Patient:
    """One patient with admissions in time order; dates are shifted into the future as in MIMIC."""

    subject_id: int
    gender: str
    anchor_age: int
    anchor_year: int
    admissions: list[Admission] = field(default_factory=list)

    @property
    def death_time(self) -> str:
        """When the patient died in hospital, or empty."""
        return self.admissions[-1].died

    def pick(self, values: Sequence[str]) -> str:
        """One of `values`, fixed for this patient."""
        return random.Random(f"{self.subject_id} {values}").choice(values)


def admit_patients(count: int, seed: int, nuisances: Mapping[str, float]) -> list[Patient]:
    """Patients with `count` admissions in all, one for each note of `generate_notes(count, seed)`.

    `nuisances` holds the share of admissions with each flaw, by name, as in `synthetic_mimic.yaml`.
    """
    rng = random.Random(f"admissions {seed}")
    patients: list[Patient] = []
    # Known patients by sex and age at the last stay: who comes back is of the note's sex and a little older.
    known: dict[tuple[str, int], list[Patient]] = defaultdict(list)
    for number, note in enumerate(generate_notes(count, seed)):
        patient = _returning_patient(note, known, rng) if rng.random() < RETURN_CHANCE else None
        if patient is None:
            patient = Patient(10_000_000 + 37 * len(patients), note.gender, note.age, rng.randint(2110, 2190))
            patients.append(patient)
        stay = _admit(patient, 20_000_000 + 13 * number, note, nuisances, rng)
        patient.admissions.append(stay)
        if not stay.died and len(patient.admissions) < MOST_ADMISSIONS:
            known[note.gender, note.age].append(patient)
    return patients


def _returning_patient(
    note: SyntheticNote, known: dict[tuple[str, int], list[Patient]], rng: random.Random
) -> Patient | None:
    for age in range(note.age - 1, note.age - 7, -1):
        waiting = known[note.gender, age]
        if waiting:
            return waiting.pop(rng.randrange(len(waiting)))
    return None


def _admit(
    patient: Patient, hadm_id: int, note: SyntheticNote, nuisances: Mapping[str, float], rng: random.Random
) -> Admission:
    # In the year in which the patient has the age that the note gives.
    year = patient.anchor_year + note.age - patient.anchor_age
    admitted = datetime(year, 1, 1) + timedelta(minutes=rng.randrange(340 * 24 * 60))
    discharged = admitted + timedelta(minutes=rng.randrange(24 * 60, 12 * 24 * 60))
    arrived = admitted - timedelta(minutes=rng.randrange(60, 600))
    by_emergency = rng.random() < 0.6
    flaws = {name: rng.random() < share for name, share in nuisances.items()}
    rows = list(enumerate(note.diagnoses, 1))
    if flaws["duplicate_code"]:
        rows.append((len(rows) + 1, rng.choice(note.diagnoses)))
    rng.shuffle(rows)
    return Admission(
        hadm_id=hadm_id,
        note=note,
        admitted=str(admitted),
        discharged=str(discharged),
        died=str(discharged) if flaws["death"] else "",
        emergency_from=str(arrived) if by_emergency else "",
        emergency_to=str(admitted) if by_emergency else "",
        has_note=not flaws["no_note"],
        has_second_note=flaws["second_note"],
        has_null_code=flaws["null_code"],
        has_other_note=flaws["other_note"],
        diagnosis_rows=tuple(rows),
    )
