"""What a report calls things: engines, metrics, label spaces and groups of codes, each with its definition."""

from typing import NamedTuple

from medcode_assets.evaluation.report import CodeGroup, EngineEvaluation, EvaluationReport
from medcode_serving.bundle import Metric


class Term(NamedTuple):
    """A name for people, and what it means in one sentence."""

    title: str
    definition: str


ENGINES = {
    "adapter": Term("adapter", "The fine-tuned language model that this report is about."),
    "linear": Term(
        "linear",
        "No neural network: telling words and pairs, TF-IDF with one-vs-rest, and the codes' titles, weighed together.",
    ),
    "untuned_base": Term("untuned base", "The same base model and prompt without the adapter."),
    "frequency_prior": Term(
        "frequency prior", "The most frequent codes of the training split, the same for every note."
    ),
}

LABEL_SPACES = {
    "open": Term("open", "Every code known or predicted counts: a wrong code is an error, whatever it is."),
    "closed": Term(
        "closed",
        "Only codes that the test split asks for count; predictions of other codes are discarded, which flatters "
        "(Edin et al., SIGIR 2023).",
    ),
    "caml": Term(
        "caml",
        "Macro F1 as the harmonic mean of macro precision and macro recall over all codes (Mullenbach et al., NAACL "
        "2018).",
    ),
}

METRICS = {
    "micro_f1": Term("micro F1", "Σtp / (Σtp + ½(Σfp + Σfn)) over all codes and documents."),
    "micro_precision": Term("micro precision", "Share of predicted codes that are gold."),
    "micro_recall": Term("micro recall", "Share of gold codes that are predicted."),
    "macro_f1": Term("macro F1", "Mean of the codes' own F1s, each code counting the same; 0/0 is 0."),
    "macro_precision": Term("macro precision", "Mean of the codes' own precisions; 0 for a code never predicted."),
    "macro_recall": Term("macro recall", "Mean of the codes' own recalls."),
    "map": Term("MAP", "Mean over documents of Σ precision@i · rel_i / gold codes, codes ranked by probability."),
    "precision_at_5": Term(
        "P@5", "Share of a document's 5 most probable codes that are gold; missing places are wrong."
    ),
    "precision_at_8": Term("P@8", "The same of its 8 most probable codes."),
    "precision_at_15": Term("P@15", "The same of its 15 most probable codes."),
    "recall_at_5": Term("R@5", "Share of a document's gold codes among its 5 most probable ones."),
    "recall_at_8": Term("R@8", "The same among its 8 most probable ones."),
    "recall_at_15": Term("R@15", "The same among its 15 most probable ones."),
    "r_precision": Term("R-precision", "Precision at as many codes as the document has gold ones."),
    "exact_match_ratio": Term("exact match", "Share of documents whose predicted codes are exactly the gold ones."),
    "macro_auc": Term(
        "macro AUC", "Mean over codes of the area under the ROC curve; codes not told share the last rank."
    ),
    "micro_auc": Term("micro AUC", "Area under the ROC curve over all (document, code) cells."),
}


def engine_title(engine: str) -> str:
    """Return an engine's name for people; one that is not known is its own."""
    return ENGINES[engine].title if engine in ENGINES else engine.replace("_", " ")


def metric_title(metric: str) -> str:
    """Return a metric's name for people; one that is not known is its own."""
    return METRICS[metric].title if metric in METRICS else metric.replace("_", " ")


def bucket_title(group: str) -> str:
    """Return the short name of a frequency bucket: `1–10` of `frequency:1-10`, `> 500` of `frequency:over-500`."""
    return group.removeprefix("frequency:").replace("over-", "> ").replace("-", "–")


def chapter_title(group: CodeGroup) -> str:
    """Return the name of a chapter's group with its range first: `I00-I99 Diseases of the circulatory system`."""
    which = group.name.rsplit(":", 1)[-1]
    title = group.title.removesuffix(f" ({which})")
    return group.title if title == group.title else f"{which} {title}"


def metric_if_measured(
    evaluation: EngineEvaluation, name: str, label_space: str, *, level: str = "code", group: str = "all"
) -> Metric | None:
    """Return one test metric with its interval; None where it is not defined, as an AUC without a negative."""
    try:
        return evaluation.measured(name, label_space, level=level, group=group)
    except KeyError:
        return None


def groups_of(report: EvaluationReport, kind: str) -> tuple[CodeGroup, ...]:
    """Return a report's groups of one kind: system, frequency or chapter."""
    return tuple(group for group in report.groups if group.name.startswith(f"{kind}:"))
