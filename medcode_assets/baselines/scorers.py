"""Fits the three scorers of a linear model on training notes (what they are: `medcode_serving.linear`)."""

from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np

from medcode_assets.baselines.corpus import Corpus
from medcode_serving.linear.model import Scorers
from medcode_serving.linear.phrases import Phrases, find_sorted
from medcode_serving.linear.ridge import Ridge, projected
from medcode_serving.linear.text import COLUMNS, title_stems
from medcode_serving.linear.titles import Titles

if TYPE_CHECKING:
    from medcode_assets.baselines.linear import LinearSettings

_RARE = 5
"""A code of fewer notes is judged by phrases that one of them has; one of more, by phrases that two have."""
_SHARED_BY = 5
"""Notes that have a phrase at least, where there are many: a name that somebody looks for should not be found again."""
_MANY = 5_000
_BELIEF = 2.0
_NOTES_AT_ONCE = 512
_NO_ROWS = np.zeros(0, np.int32)
_CACHED_NOTES = 20_000


def fit_scorers(corpus: Corpus, notes: np.ndarray, titles: Titles, codes: int, settings: "LinearSettings") -> Scorers:
    """Fit the scorers.

    Args:
        corpus: Encoded notes.
        notes: Numbers of the notes to learn from, int64.
        titles: The titles of all codes; its weights are replaced.
        codes: Number of trained codes; one without a note among these is scored as an untrained one.
        settings: Sizes.
    """
    columns, stems = _document_frequencies(corpus, notes, titles.stems)
    _, gold = corpus.pairs(notes)
    return Scorers(
        fit_phrases(corpus, notes, codes, settings),
        fit_ridge(corpus, notes, codes, _idf(columns, len(notes)), settings),
        weighted_titles(titles, stems, len(notes)),
        np.bincount(gold, minlength=codes),
    )


def _document_frequencies(corpus: Corpus, notes: np.ndarray, stems: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the number of notes with each TF-IDF column, and with each of the stems."""
    columns, with_stem = np.zeros(COLUMNS, np.int64), np.zeros(len(stems), np.int64)
    for note in notes.tolist():
        features = corpus.features(note)
        columns[features.columns] += 1
        if features.sentences:
            with_stem[find_sorted(stems, np.unique(np.concatenate(features.sentences)))] += 1
    return columns, with_stem


def _idf(frequencies: np.ndarray, notes: int) -> np.ndarray:
    """Return log((notes + 1) / (df + 1)) + 1 as float32; 0 for a column that one note has: it tells of no other."""
    idf = np.log((notes + 1) / (frequencies + 1)) + 1
    return np.where(frequencies >= min(2, notes), idf, 0).astype(np.float32)


def fit_phrases(corpus: Corpus, notes: np.ndarray, codes: int, settings: "LinearSettings") -> Phrases:
    """Find the most telling phrases of each code, then count in how many notes each of them is.

    Codes of many notes are judged by some of them, spread evenly, and phrases by how often a sample has them: the time
    is that of one pass plus a part that grows with the number of codes only.
    """
    keys, sampled, share = _repeated_phrases(corpus, spread(notes, settings.sampled_notes), len(notes))
    rows_of = lru_cache(maxsize=_CACHED_NOTES)(lambda note: find_sorted(keys, corpus.phrases(note)).astype(np.int32))
    places, gold = corpus.pairs(notes)
    by_code = np.split(notes[places[np.argsort(gold, kind="stable")]], np.cumsum(np.bincount(gold, minlength=codes)))
    prior = np.bincount(gold, minlength=codes) / max(len(notes), 1)
    kept_rows, kept_hits = [], []
    for code in range(codes):
        read = spread(by_code[code], settings.notes_per_code)
        rows, seen = np.unique(np.concatenate([_NO_ROWS, *map(rows_of, read.tolist())]), return_counts=True)
        enough = seen >= (1 if len(read) < _RARE else 2)
        rows, hits = rows[enough], seen[enough] * (len(by_code[code]) / max(len(read), 1))
        about = np.maximum(sampled[rows] / share, hits)
        order = np.argsort(-(hits + _BELIEF * prior[code]) / (about + _BELIEF), kind="stable")
        kept_rows.append(rows[order[: settings.phrases_per_code]])
        kept_hits.append(hits[order[: settings.phrases_per_code]])
    return _phrase_table(keys, kept_rows, kept_hits, _count(rows_of, notes, len(keys)), prior)


def _repeated_phrases(corpus: Corpus, sample: np.ndarray, notes: int) -> tuple[np.ndarray, np.ndarray, float]:
    """Return the phrases that several notes of the sample have, their number of notes, and the sample's share."""
    keys, counts = np.zeros(0, np.uint64), np.zeros(0, np.int64)
    for start in range(0, len(sample), _NOTES_AT_ONCE * 4):
        some = [corpus.phrases(note) for note in sample[start : start + _NOTES_AT_ONCE * 4].tolist()]
        new, new_counts = np.unique(np.concatenate(some), return_counts=True)
        keys, place = np.unique(np.concatenate([keys, new]), return_inverse=True)
        counts = np.bincount(place, weights=np.concatenate([counts, new_counts]), minlength=len(keys)).astype(np.int64)
    shared = counts >= (_SHARED_BY if notes >= _MANY else 2)
    return keys[shared], counts[shared], len(sample) / max(notes, 1)


def _count(rows_of: Callable[[int], np.ndarray], notes: np.ndarray, rows: int) -> np.ndarray:
    counts = np.zeros(rows, np.int64)
    for note in notes.tolist():
        counts[rows_of(note)] += 1
    return counts


def _phrase_table(
    keys: np.ndarray, rows: list[np.ndarray], hits: list[np.ndarray], documents: np.ndarray, prior: np.ndarray
) -> Phrases:
    """Turn phrases by code into codes by phrase."""
    row, hit = (np.concatenate([np.zeros(0), *parts]) for parts in (rows, hits))
    code = np.repeat(np.arange(len(rows)), [len(part) for part in rows])
    order = np.lexsort((code, row))
    used, sizes = np.unique(row.astype(np.int64), return_counts=True)
    return Phrases(
        keys=keys[used],
        documents=documents[used].astype(np.int32),
        starts=np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64),
        codes=code[order].astype(np.int32),
        hits=np.minimum(hit[order], np.repeat(documents[used], sizes)).astype(np.float32),
        prior=prior.astype(np.float32),
    )


def fit_ridge(corpus: Corpus, notes: np.ndarray, codes: int, idf: np.ndarray, settings: "LinearSettings") -> Ridge:
    """Solve the normal equations of the projected notes.

    With X the notes [notes, dimensions + 1], Y their codes and p the penalty, the weights are (XᵀX + pI)⁻¹XᵀY: a sum
    over notes, however many there are. Where the notes are fewer than the dimensions, the equal Xᵀ(XXᵀ + pI)⁻¹Y is
    the smaller system.
    """
    size = settings.dimensions + 1
    if len(notes) < size:
        x = _projected_notes(corpus, notes, idf, settings.dimensions).astype(np.float64)
        weights = x.T @ np.linalg.solve(x @ x.T + settings.penalty * np.eye(len(x)), _indicator(corpus, notes, codes))
        return Ridge(idf, weights.astype(np.float32))
    gram, cross = np.zeros((size, size)), np.zeros((size, codes), np.float32)
    for start in range(0, len(notes), _NOTES_AT_ONCE):
        some = notes[start : start + _NOTES_AT_ONCE]
        x = _projected_notes(corpus, some, idf, settings.dimensions)
        gram += x.T @ x
        cross += x.T @ _indicator(corpus, some, codes)
    solved = np.linalg.solve(gram + settings.penalty * np.eye(size), cross)
    return Ridge(idf, solved.astype(np.float32))


def _projected_notes(corpus: Corpus, notes: np.ndarray, idf: np.ndarray, dimensions: int) -> np.ndarray:
    return np.stack([projected(corpus.features(note), idf, dimensions) for note in notes.tolist()])


def _indicator(corpus: Corpus, notes: np.ndarray, codes: int) -> np.ndarray:
    """Return the 0/1 matrix [notes, codes], float32; for a few hundred notes at once."""
    indicator = np.zeros((len(notes), codes), np.float32)
    indicator[corpus.pairs(notes)] = 1
    return indicator


def title_index(descriptions: Sequence[str | None]) -> Titles:
    """Return the stems of the codes' descriptions, all of weight 0."""
    stems = [title_stems(description or "") for description in descriptions]
    distinct, places = np.unique(np.array([stem for title in stems for stem in title], np.uint64), return_inverse=True)
    starts = np.cumsum([0, *map(len, stems)]).astype(np.int64)
    return Titles(distinct, np.zeros(len(distinct), np.float32), starts, places.astype(np.int32))


def weighted_titles(titles: Titles, in_notes: np.ndarray, notes: int) -> Titles:
    """Weigh each stem by the smaller of its idf among notes and among titles.

    A word that every note has tells nothing, and neither does one that every title has ("fracture" among injuries).
    """
    in_titles = np.bincount(titles.places, minlength=len(titles.stems))
    by_notes = np.log((notes + 1) / (in_notes + 1))
    by_titles = np.log((len(titles.starts) - 1) / np.maximum(in_titles, 1))
    weights = (np.minimum(by_notes, by_titles) + 0.5).astype(np.float32)
    return Titles(titles.stems, weights, titles.starts, titles.places)


def spread(notes: np.ndarray, count: int) -> np.ndarray:
    """Return at most so many of the notes, evenly from first to last."""
    if len(notes) <= count:
        return notes
    return notes[np.arange(count) * len(notes) // count]
