"""The model card of GGUF files that answer in words; holds numbers about answers and no question of the data."""

from collections.abc import Sequence

from medcode_assets.export.card import ENGINES, Companions, framed, metric_cell
from medcode_assets.export.report import GgufReport
from medcode_assets.export.templates import fill
from medcode_serving.bundle import BundleManifest, Gate, Metric

EXAMPLE_QUESTION = "What are the usual symptoms of gout?"
"""Made up."""
HEADLINE_GATE = "above_untuned_base"
"""The gate whose reason names the recipe's headline measure, with what adapter and untuned base have of it."""
MEASURES = {
    "bleu_1": "BLEU-1",
    "bleu_2": "BLEU-2",
    "bleu_3": "BLEU-3",
    "bleu_4": "BLEU-4",
    "rouge_1": "ROUGE-1",
    "rouge_2": "ROUGE-2",
    "rouge_l": "ROUGE-L",
    "meteor": "METEOR",
    "bertscore_precision": "BERTScore, precision",
    "bertscore_recall": "BERTScore, recall",
    "bertscore_f1": "BERTScore, F1",
    "exact_match": "Exact match",
    "token_f1": "Token F1",
}
"""Text metrics that compare with a reference; any other is the recipe's own."""


def word_model_card(
    manifest: BundleManifest,
    reports: Sequence[GgufReport],
    companions: Companions,
    *,
    gates: Sequence[Gate],
    edges_differ: bool,
) -> str:
    """Return README.md for a bundle that answers in words.

    Args:
        manifest: The bundle's.
        reports: What verification found, one a GGUF file, in the order in which they are shown.
        companions: What is in the folder, and of which base model.
        gates: What the bundle was held against.
        edges_differ: Whether other programs split a question's edges otherwise than training did.
    """
    engines, results = measured_answers(manifest.metrics)
    return fill(
        "word_model_card.md.jinja",
        **framed(manifest, reports, companions, example=EXAMPLE_QUESTION),
        data_terms="terms",
        asked="questions",
        asked_one="question",
        documents="questions",
        task=next((content for role, content in manifest.prompt.messages if role == "system"), None),
        engines=[ENGINES[engine] for engine in engines],
        results=results,
        headline=next((gate.reason for gate in gates if gate.name == HEADLINE_GATE), None),
        edges_differ=edges_differ,
    )


def measured_answers(metrics: Sequence[Metric]) -> tuple[list[str], list[tuple[str, list[str]]]]:
    """Return the engines that answered the test split, and (measure, cell of each engine), the recipe's own first."""
    found = {
        (metric.name, metric.engine): metric
        for metric in metrics
        if (metric.split, metric.level, metric.label_space, metric.group) == ("test", "answer", "words", "all")
    }
    engines = [engine for engine in ENGINES if any(key[1] == engine for key in found)]
    names = sorted({name: None for name, _ in found}, key=MEASURES.__contains__)
    rows = [
        (
            MEASURES.get(name, f"`{name}`"),
            [metric_cell(found[name, engine]) if (name, engine) in found else "–" for engine in engines],
        )
        for name in names
    ]
    return engines, rows
