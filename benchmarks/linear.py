"""The linear baseline on real notes, beside simpler ones in the same run, and how its time grows with the notes.

    python benchmarks/linear.py
    python benchmarks/linear.py --notes 2000 4000 8000 --codes 3000

Real: CodiEsp (shared/data/codiesp-mimic-iv), trained on train, threshold from train alone by cross-validation, measured
on dev, all ICD-10-CM codes in the open label space. Invented: notes of MIMIC's length, 1,500 words drawn as Zipf's law
has it with 15 codes of which each has its own three words; only CPU time and memory are read off, each in a process of
its own.
"""

import argparse
import csv
import gzip
import os
import resource
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path

import numpy as np

from medcode_assets.baselines.linear import CandidateCode, fit_linear
from medcode_serving.codes.systems import dotted
from medcode_serving.engines.linear import LinearEngine

CODIESP = Path(os.environ.get("MEDCODE_CODIESP", Path(__file__).parents[2] / "shared/data/codiesp-mimic-iv"))
SYSTEM = "icd10cm"
FOLDS = 4
MIMIC_NOTES = 89_000


@dataclass(frozen=True)
class Split:
    """Notes with the codes of each."""

    notes: list[str]
    gold: list[list[str]]

    def take(self, places: Sequence[int]) -> "Split":
        """Return some of the notes."""
        return Split([self.notes[place] for place in places], [self.gold[place] for place in places])


@dataclass(frozen=True)
class Ranking:
    """One note's codes, most probable first, and their probabilities."""

    codes: list[str]
    scores: list[float]


def read_codiesp(folder: Path = CODIESP) -> tuple[dict[str, Split], dict[str, str]]:
    """Return train and dev, and the description of every ICD-10-CM code."""
    splits = {row["hadm_id"]: row["split"] for row in rows(folder / "splits.csv")}
    notes = {row["hadm_id"]: row["text"] for row in rows(folder / "note/discharge.csv.gz")}
    gold: dict[str, set[str]] = {admission: set() for admission in splits}
    for row in rows(folder / "hosp/diagnoses_icd.csv.gz"):
        if row["hadm_id"] in gold:
            gold[row["hadm_id"]].add(dotted(SYSTEM, row["icd_code"]))
    titles = {
        dotted(SYSTEM, row["icd_code"]): row["long_title"]
        for row in rows(folder / "hosp/d_icd_diagnoses.csv.gz")
        if row["icd_version"] == "10"
    }
    made = {}
    for name in ("train", "dev"):
        admissions = sorted(admission for admission, split in splits.items() if split == name)
        made[name] = Split([notes[one] for one in admissions], [sorted(gold[one]) for one in admissions])
    return made, titles


def rows(path: Path) -> Iterator[dict[str, str]]:
    with gzip.open(path, "rt", newline="") if path.suffix == ".gz" else path.open(newline="") as file:
        yield from csv.DictReader(file)


def linear(train: Split, notes: list[str], titles: dict[str, str]) -> list[Ranking]:
    frequency = Counter(code for gold in train.gold for code in gold)
    codes = [CandidateCode(SYSTEM, code, title, frequency[code]) for code, title in titles.items()]
    gold = [[(SYSTEM, code) for code in one] for one in train.gold]
    with tempfile.TemporaryDirectory() as folder:
        fit_linear(lambda: iter([(train.notes, gold)]), codes, Path(folder))
        engine = LinearEngine.load(Path(folder))
    return [
        Ranking([code.code for code in answer.codes], [code.probability or 0.0 for code in answer.codes])
        for answer in engine.predict(notes)
    ]


def frequency_prior(train: Split, notes: list[str], titles: dict[str, str]) -> list[Ranking]:
    ranked = Counter(code for gold in train.gold for code in gold).most_common(200)
    return [Ranking([code for code, _ in ranked], [count / len(train.notes) for _, count in ranked])] * len(notes)


def logistic_regression(train: Split, notes: list[str], titles: dict[str, str]) -> list[Ranking]:
    """Word 1-2-gram TF-IDF and one balanced logistic regression a code: the usual baseline."""
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression
    from sklearn.multiclass import OneVsRestClassifier
    from sklearn.preprocessing import MultiLabelBinarizer

    tfidf, labels = TfidfVectorizer(ngram_range=(1, 2), min_df=2, sublinear_tf=True), MultiLabelBinarizer()
    x, y = tfidf.fit_transform(train.notes), labels.fit_transform(train.gold)
    model = OneVsRestClassifier(LogisticRegression(C=10, class_weight="balanced", solver="liblinear")).fit(x, y)
    return [
        Ranking(labels.classes_[order].tolist(), row[order].tolist())
        for row in model.predict_proba(tfidf.transform(notes))
        for order in [np.argsort(-row, kind="stable")[:200]]
    ]


def micro_f1(rankings: list[Ranking], gold: list[list[str]], threshold: float) -> float:
    predicted = [
        {code for code, score in zip(one.codes, one.scores, strict=True) if score >= threshold} for one in rankings
    ]
    right = sum(len(codes & set(answer)) for codes, answer in zip(predicted, gold, strict=True))
    return 2 * right / (sum(map(len, predicted)) + sum(map(len, gold)))


def threshold_of(method, train: Split, titles: dict[str, str]) -> float:  # noqa: ANN001
    """Return the threshold with the best micro F1 over notes of train that were held out fold by fold."""
    order = np.random.default_rng(1).permutation(len(train.notes)).tolist()
    rankings, gold = [], []
    for fold in range(FOLDS):
        held_out = train.take(order[fold::FOLDS])
        rest = train.take([place for number, place in enumerate(order) if number % FOLDS != fold])
        rankings += method(rest, held_out.notes, titles)
        gold += held_out.gold
    return max(np.linspace(0.02, 0.9, 177), key=lambda threshold: micro_f1(rankings, gold, threshold))


def average_precision(ranking: Ranking, gold: list[str]) -> float:
    right = np.isin(ranking.codes, gold)
    return float((np.cumsum(right)[right] / (np.flatnonzero(right) + 1)).sum() / max(len(gold), 1))


def print_codiesp() -> None:
    if not CODIESP.is_dir():
        print(f"CodiEsp is not there ({CODIESP}): skipped\n")
        return
    splits, titles = read_codiesp()
    train, dev = splits["train"], splits["dev"]
    print(f"{len(train.notes)} notes to learn from, {len(dev.notes)} to measure on, {len(titles):,} codes\n")
    print("| model | threshold (train) | micro F1 | MAP | P@8 | train and predict, s |\n|---|---|---|---|---|---|")
    for method in (linear, logistic_regression, frequency_prior):
        threshold = threshold_of(method, train, titles)
        started = time.perf_counter()
        rankings = method(train, dev.notes, titles)
        seconds = time.perf_counter() - started
        pairs = list(zip(rankings, dev.gold, strict=True))
        precision = np.mean([average_precision(*pair) for pair in pairs])
        at_8 = np.mean([len(set(ranking.codes[:8]) & set(gold)) / 8 for ranking, gold in pairs])
        print(
            f"| {method.__name__} | {threshold:.3f} | {micro_f1(rankings, dev.gold, threshold):.3f} | "
            f"{precision:.3f} | {at_8:.3f} | {seconds:.1f} |",
            flush=True,
        )
    print()


def invented(notes: int, codes: int) -> Iterator[tuple[list[str], list[list[tuple[str, str]]]]]:
    """Give notes in chunks of 500; equal arguments give equal notes."""
    syllables = np.array([a + b for a in "bcdfglmnprst" for b in "aeiou"])
    draw = np.random.default_rng(3)
    words = np.array(["".join(draw.choice(syllables, 1 + int(np.log10(rank + 1) * 0.9))) for rank in range(40_000)])
    of_code = draw.integers(200, len(words), (codes, 3))
    for start in range(0, notes, 500):
        texts, gold = [], []
        for _ in range(min(500, notes - start)):
            answer = np.unique((codes ** draw.random(15)).astype(int) - 1)
            ranks = (len(words) ** draw.random(1500)).astype(int) - 1
            ranks[draw.choice(1500, 3 * len(answer), replace=False)] = of_code[answer].ravel()
            texts.append(". ".join(" ".join(line) for line in np.split(words[ranks], 100)) + ".\n")
            gold.append([(SYSTEM, f"C{code:05d}") for code in answer.tolist()])
        yield texts, gold


def measure_size(notes: int, codes: int) -> tuple[float, float, float]:
    """Return CPU seconds to fit without making the notes, CPU milliseconds to predict a note, and peak MiB."""
    started = time.process_time()
    frequency = Counter(code for _, gold in invented(notes, codes) for answer in gold for _, code in answer)
    making = time.process_time() - started
    names = [f"C{code:05d}" for code in range(codes)]
    candidates = [CandidateCode(SYSTEM, name, f"bala of {name}", frequency[name]) for name in names]
    with tempfile.TemporaryDirectory() as folder:
        started = time.process_time()
        fit_linear(lambda: invented(notes, codes), candidates, Path(folder))
        fitting = time.process_time() - started - making
        engine = LinearEngine.load(Path(folder))
    some, _ = next(invented(100, codes))
    engine.predict(some[:10])
    started = time.process_time()
    engine.predict(some[10:])
    predicting = 1e3 * (time.process_time() - started) / len(some[10:])
    return fitting, predicting, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def print_scaling(sizes: list[int], codes: int) -> None:
    print(f"Invented notes of 1,500 words, {codes:,} codes, one process each\n")
    print("| notes | fit, CPU s | ms a note | peak MiB | predict, ms a note |\n|---|---|---|---|---|")
    for notes in sizes:
        with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
            fitting, predicting, peak = pool.submit(measure_size, notes, codes).result()
        rate = fitting / notes
        print(f"| {notes:,} | {fitting:.0f} | {1e3 * rate:.1f} | {peak:.0f} | {predicting:.1f} |", flush=True)
    print(f"\nAt the last row's rate MIMIC's {MIMIC_NOTES:,} notes take {rate * MIMIC_NOTES / 60:.0f} CPU minutes.")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--notes", type=int, nargs="+", default=[2000, 4000, 8000])
    parser.add_argument("--codes", type=int, default=3000)
    arguments = parser.parse_args()
    print_codiesp()
    print_scaling(arguments.notes, arguments.codes)
