"""Every metric of an engine's answers with its interval, and the difference of two engines' on the same documents."""

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple, get_args

from medcode_assets.evaluation.auc import macro_auc, micro_auc
from medcode_assets.evaluation.bootstrap import Statistic, estimate, interval, p_value, resample
from medcode_assets.evaluation.columns import CodeColumns
from medcode_assets.evaluation.groups import ColumnGroup, Level, at_level, code_groups, membership, parents
from medcode_assets.evaluation.metrics import LabelSpace, code_pairs, grouped_precision_recall_f1
from medcode_assets.evaluation.ranking import document_means, exact_matches, ranking_values
from medcode_assets.evaluation.report import CodeGroup, Difference
from medcode_assets.evaluation.threshold import apply_threshold
from medcode_serving.bundle import Metric
from medcode_serving.errors import MedcodeError

if TYPE_CHECKING:
    import numpy as np
    from scipy.sparse import csr_array


class MetricKey(NamedTuple):
    """What a number is; as the fields of `Metric`."""

    name: str
    label_space: str
    level: str = "code"
    group: str = "all"


COMPARED = (
    MetricKey("micro_f1", "closed"),
    MetricKey("macro_f1", "closed"),
    MetricKey("micro_f1", "open"),
    MetricKey("macro_f1", "open"),
    MetricKey("micro_precision", "open"),
    MetricKey("micro_recall", "open"),
    MetricKey("map", "open"),
    MetricKey("precision_at_8", "open"),
    MetricKey("recall_at_15", "open"),
    MetricKey("exact_match_ratio", "open"),
    MetricKey("macro_f1", "caml"),
)
"""What two engines are compared by."""


def measure(
    gold: "csr_array",
    scores: "csr_array",
    threshold: float,
    columns: CodeColumns,
    frequencies: "np.ndarray",
    *,
    engine: str,
    split: str,
    resamples: int = 1000,
    seed: int = 0,
) -> tuple[Metric, ...]:
    """Return every metric with its 95 % interval, ready for a bundle.

    Over all codes: precision, recall and F1 in each label space; ranking metrics, exact matches and AUC in the closed
    and the open one. By code system, training frequency and chapter, and over categories and chapters in place of
    codes (a document has a parent if it has any code of it): precision, recall and F1, closed and open.

    The open label space holds the codes that training saw, that the split asks for, or that are predicted; a code that
    is only told, below the threshold, takes its place in the ranking and widens nothing else.

    The closed label space of precision, recall and F1 is each bootstrap sample's own. That of ranking metrics, exact
    matches and micro AUC stays the split's: an answer's ranking is the document's, and not the sample's.

    Args:
        gold: 0/1 matrix [documents, codes].
        scores: Calibrated probabilities of the same shape; what is not stored was not told.
        threshold: Told codes with at least this probability are predicted.
        columns: The codes.
        frequencies: Training documents with each code, int [codes].
        engine: What predicted: adapter, untuned_base, linear, frequency_prior.
        split: train, validation or test.
        resamples: Bootstrap samples; 0 gives no intervals.
        seed: Of the samples.

    Returns:
        Only what is defined: no group without a gold pair, no AUC without a negative.

    Raises:
        MedcodeError: the split has no documents, or none of them has a code.
        ValueError: shapes differ.
    """
    _check(gold, columns, f"the {split} split", scores)
    predicted = apply_threshold(scores, threshold)
    known = _known_or_predicted(gold, predicted, frequencies)
    known_columns = CodeColumns(columns.codes[place] for place in known)
    asked, told = gold[:, known], predicted[:, known]
    groups = (_every_column(asked), *_asked_for(code_groups(known_columns, frequencies[known]), asked))
    statistic = _all_of(
        _by_group(asked, told, {"closed": groups, "open": groups, "caml": groups[:1]}, "code"),
        _by_parent(asked, told, known_columns, "category"),
        _by_parent(asked, told, known_columns, "chapter"),
        _by_document(gold, scores, predicted, "closed"),
        _by_document(gold, scores, predicted, "open"),
        _by_area(asked, scores[:, known]),
    )
    values = estimate(statistic, gold.shape[0])
    samples = resample(statistic, gold.shape[0], resamples=resamples, seed=seed)
    return tuple(
        Metric(**key._asdict(), value=value, engine=engine, split=split, **_ends(value, samples.get(key)))
        for key, value in values.items()
        if not math.isnan(value)
    )


def group_sizes(gold: "csr_array", columns: CodeColumns, frequencies: "np.ndarray") -> tuple[CodeGroup, ...]:
    """Return the groups that `measure` takes metrics over, in its order, with their codes and pairs in the split.

    Args:
        gold: 0/1 matrix [documents, codes].
        columns: The codes.
        frequencies: Training documents with each code, int [codes].
    """
    import numpy as np

    positives = np.asarray(gold.sum(axis=0)).ravel()
    return tuple(
        CodeGroup(
            name=group.name,
            title=group.title,
            codes=int(np.count_nonzero(positives[group.columns])),
            pairs=int(positives[group.columns].sum()),
        )
        for group in _asked_for(code_groups(columns, frequencies), gold)
    )


def differences(
    gold: "csr_array",
    first: tuple["csr_array", float],
    second: tuple["csr_array", float],
    columns: CodeColumns,
    frequencies: "np.ndarray",
    *,
    names: tuple[str, str],
    resamples: int = 1000,
    seed: int = 0,
) -> tuple[Difference, ...]:
    """Return the first engine's metrics minus the second's, by paired bootstrap: both on the same samples.

    Args:
        gold: 0/1 matrix [documents, codes].
        first: One engine's calibrated probabilities, of the same shape, and its threshold.
        second: The other's.
        columns: The codes.
        frequencies: Training documents with each code, int [codes].
        names: The engines'.
        resamples: Bootstrap samples, at least 1.
        seed: Of the samples.

    Returns:
        One row for each of `COMPARED`. Equal answers differ by 0, from 0 to 0, with p-value 1.

    Raises:
        MedcodeError: there are no documents, or none of them has a code.
        ValueError: shapes differ, or there are no resamples.
    """
    if resamples < 1:
        raise ValueError("a difference needs resamples: at least 1")
    _check(gold, columns, "the split", first[0], second[0])
    statistic = _difference(*(_compared(gold, *engine, frequencies) for engine in (first, second)))
    values = estimate(statistic, gold.shape[0])
    samples = resample(statistic, gold.shape[0], resamples=resamples, seed=seed)
    rows = []
    for key, value in values.items():
        low, high = interval(value, samples[key])
        rows.append(
            Difference(
                name=key.name,
                label_space=key.label_space,
                first=names[0],
                second=names[1],
                value=value,
                low=low,
                high=high,
                p_value=p_value(value, samples[key]),
            )
        )
    return tuple(rows)


def _check(gold: "csr_array", columns: CodeColumns, split: str, *others: "csr_array") -> None:
    if len(columns) != gold.shape[1]:
        raise ValueError(f"{len(columns)} columns, gold is {gold.shape}")
    for scores in others:
        if scores.shape != gold.shape:
            raise ValueError(f"scores are {scores.shape}, gold is {gold.shape}")
    if not gold.shape[0]:
        raise MedcodeError(f"{split} has no documents; prepare more patients: medcode prepare")
    if not gold.sum():
        raise MedcodeError(
            f"{split} has {gold.shape[0]} documents and none has a code; check the cohort: medcode prepare"
        )


def _known_or_predicted(gold: "csr_array", predicted: "csr_array", frequencies: "np.ndarray") -> "np.ndarray":
    """Return the columns of the open label space: codes of training, of the split, and of the predictions."""
    import numpy as np

    return np.flatnonzero((frequencies > 0) | (gold.sum(axis=0) > 0) | (predicted.sum(axis=0) > 0))


def _every_column(gold: "csr_array") -> ColumnGroup:
    import numpy as np

    return ColumnGroup("all", "All codes", np.arange(gold.shape[1]))


def _asked_for(groups: Sequence[ColumnGroup], gold: "csr_array") -> tuple[ColumnGroup, ...]:
    """Return the groups that have a gold pair."""
    import numpy as np

    positives = np.asarray(gold.sum(axis=0)).ravel()
    return tuple(group for group in groups if positives[group.columns].any())


def _all_of(*statistics: Statistic[MetricKey]) -> Statistic[MetricKey]:
    def values(weights: "np.ndarray") -> dict[MetricKey, "np.ndarray"]:
        return {key: found for statistic in statistics for key, found in statistic(weights).items()}

    return values


def _by_group(
    gold: "csr_array", predicted: "csr_array", groups: Mapping[LabelSpace, Sequence[ColumnGroup]], level: str
) -> Statistic[MetricKey]:
    """Return precision, recall and F1 over each label space's groups of codes.

    A sample without a gold pair of a group says nothing about it: NaN.
    """
    import numpy as np

    pairs = code_pairs(gold, predicted)
    members = {space: membership(held, gold.shape[1]) for space, held in groups.items()}

    def values(weights: "np.ndarray") -> dict[MetricKey, "np.ndarray"]:
        counts = pairs.counts(weights)
        found = {}
        for space, held in members.items():
            asked = held @ (counts.tp + counts.fn) > 0
            for name, by_group in grouped_precision_recall_f1(counts, held, space).items():
                for group, row in zip(groups[space], np.where(asked, by_group, np.nan), strict=True):
                    found[MetricKey(name, space, level, group.name)] = row
        return found

    return values


def _by_parent(gold: "csr_array", predicted: "csr_array", columns: CodeColumns, level: Level) -> Statistic[MetricKey]:
    """Return precision, recall and F1 of categories or chapters."""
    parent_of = parents(columns, level)
    gold, predicted = at_level(gold, parent_of), at_level(predicted, parent_of)
    everything = (_every_column(gold),)
    return _by_group(gold, predicted, {"closed": everything, "open": everything}, level)


def _by_document(
    gold: "csr_array", scores: "csr_array", predicted: "csr_array", space: LabelSpace
) -> Statistic[MetricKey]:
    """Return ranking metrics and the exact match ratio."""
    if space == "closed":
        gold, scores, predicted = _closed(gold, scores, predicted)
    matches = {"exact_match_ratio": exact_matches(gold, predicted)}
    means = document_means(ranking_values(gold, scores) | matches)
    return lambda weights: {MetricKey(name, space): values for name, values in means(weights).items()}


def _by_area(gold: "csr_array", scores: "csr_array") -> Statistic[MetricKey]:
    macro = macro_auc(gold, scores)
    micro = {"closed": micro_auc(*_closed(gold, scores)), "open": micro_auc(gold, scores)}

    def values(weights: "np.ndarray") -> dict[MetricKey, "np.ndarray"]:
        same = macro(weights)
        return {
            MetricKey(name, space): found
            for space, area in micro.items()
            for name, found in (("macro_auc", same), ("micro_auc", area(weights)))
        }

    return values


def _closed(gold: "csr_array", *others: "csr_array") -> tuple["csr_array", ...]:
    """Return the columns that have a positive, of gold and of the other matrices."""
    import numpy as np

    asked = np.flatnonzero(gold.sum(axis=0))
    return tuple(matrix[:, asked] for matrix in (gold, *others))


def _compared(
    gold: "csr_array", scores: "csr_array", threshold: float, frequencies: "np.ndarray"
) -> Statistic[MetricKey]:
    """Return what `COMPARED` names."""
    predicted = apply_threshold(scores, threshold)
    known = _known_or_predicted(gold, predicted, frequencies)
    asked, told = gold[:, known], predicted[:, known]
    statistic = _all_of(
        _by_group(asked, told, dict.fromkeys(get_args(LabelSpace), (_every_column(asked),)), "code"),
        _by_document(gold, scores, predicted, "open"),
    )

    def values(weights: "np.ndarray") -> dict[MetricKey, "np.ndarray"]:
        found = statistic(weights)
        return {key: found[key] for key in COMPARED}

    return values


def _difference(first: Statistic[MetricKey], second: Statistic[MetricKey]) -> Statistic[MetricKey]:
    def values(weights: "np.ndarray") -> dict[MetricKey, "np.ndarray"]:
        one, other = first(weights), second(weights)
        return {key: one[key] - other[key] for key in one}

    return values


def _ends(value: float, samples: "np.ndarray | None") -> dict[str, float]:
    """Return the interval of a metric, which cannot leave [0, 1]; nothing without samples."""
    if samples is None:
        return {}
    low, high = interval(value, samples)
    return {"low": max(low, 0.0), "high": min(high, 1.0)}
