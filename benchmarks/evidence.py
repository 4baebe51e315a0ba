"""Whether evidence by words finds the sentence that a code was written for, beside a sentence drawn at random.

    python benchmarks/evidence.py

On made-up notes (`medcode_assets.corpora.synthetic_notes`), where the mention of every code is known: a linear model
learns from some, others are measured. Distractors are conditions that are denied or a relative's, asked for as if they
had been predicted. Real notes with known evidence are not there to measure on.
"""

import argparse
import random
import re
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from medcode_assets.baselines.linear import CandidateCode, fit_linear
from medcode_assets.corpora.synthetic_notes import Concept, SyntheticNote, generate_notes, load_concepts
from medcode_serving.evidence.lexical import LexicalEvidence
from medcode_serving.evidence.sentences import sentences
from medcode_serving.linear.files import load_model
from medcode_serving.linear.model import LinearModel

SYSTEMS = {"diagnosis": "icd10cm", "procedure": "icd10pcs"}


def code_of(concept: Concept) -> tuple[str, str]:
    return SYSTEMS[concept.kind], concept.icd10


def coded(note: SyntheticNote) -> tuple[Concept, ...]:
    return note.diagnoses + note.procedures


def fit(notes: Sequence[SyntheticNote]) -> LinearModel:
    gold = [[code_of(concept) for concept in coded(note)] for note in notes]
    frequency = Counter(code for codes in gold for code in codes)
    codes = [
        CandidateCode(*code_of(concept), concept.icd10_title, frequency[code_of(concept)])
        for concept in load_concepts()
    ]
    with tempfile.TemporaryDirectory() as folder:
        fit_linear(lambda: iter([([note.text for note in notes], gold)]), codes, Path(folder))
        return load_model(Path(folder))


def mentions(concept: Concept, text: str) -> bool:
    return re.search(rf"\b(?:{'|'.join(map(re.escape, concept.mentions))})\b", text, re.IGNORECASE) is not None


def measure(name: str, evidence: LexicalEvidence, notes: Sequence[SyntheticNote]) -> None:
    counts, seconds, draw = Counter[str](), 0.0, random.Random(1)
    for note in notes:
        asked = [*coded(note), *note.distractors]
        started = time.process_time()
        found = evidence.find(note.text, [code_of(concept) for concept in asked])
        seconds += time.process_time() - started
        bounds = sentences(note.text)
        for concept, spans in zip(asked, found, strict=True):
            right = [mentions(concept, note.text[span.start : span.end]) for span in spans]
            if concept in note.distractors:
                counts.update(distractors=1, misled=any(right))
            else:
                start, end = draw.choice(bounds)
                drawn = mentions(concept, note.text[start:end])
                counts.update(codes=1, first=any(right[:1]), none=not right, drawn=drawn, right=sum(right))
                counts.update(spans=len(right))
    codes = counts["codes"]
    print(
        f"| {name} | {counts['first'] / codes:.3f} | {counts['drawn'] / codes:.3f} | "
        f"{counts['right'] / counts['spans']:.3f} | {counts['none'] / codes:.3f} | "
        f"{counts['misled'] / counts['distractors']:.3f} | {1e3 * seconds / len(notes):.1f} |"
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--notes", type=int, default=3000, help="notes to learn from")
    arguments = parser.parse_args()
    model = fit(list(generate_notes(arguments.notes, seed=1)))
    titles = {(code.system, code.code): code.description for code in model.codes}
    test = list(generate_notes(400, seed=2))
    print(
        "| | first span has the mention | random sentence has | all spans with it | none found | misled by a ", end=""
    )
    print("distractor | CPU ms a note |\n|---|---|---|---|---|---|---|")
    measure("phrases and titles", LexicalEvidence(model, titles), test)
    measure("titles alone", LexicalEvidence(None, titles), test)
