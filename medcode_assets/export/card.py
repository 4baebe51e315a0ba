"""The model card of a folder of GGUF files; holds numbers about notes and no note."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from medcode_assets.export.quantizations import QUANTIZATIONS, quantization
from medcode_assets.export.report import GgufReport
from medcode_assets.export.templates import fill
from medcode_serving.bundle import BundleManifest, Metric
from medcode_serving.codes.vocabulary import Vocabulary
from medcode_serving.gguf_folder import SERVED_FIRST

EXAMPLE_NOTE = (
    "71-year-old man with three days of fever and productive cough. Chest X-ray: right lower lobe infiltrate. "
    "History of hypertension. Treated with ceftriaxone and azithromycin."
)
"""Made up."""

METRICS = {
    "micro_f1": "Micro F1",
    "macro_f1": "Macro F1",
    "micro_precision": "Micro precision",
    "micro_recall": "Micro recall",
}
LABEL_SPACES = ("open", "closed")
ENGINES = {"adapter": "This model", "linear": "Linear baseline", "untuned_base": "Base model, not fine-tuned"}
SETTINGS = {
    "Mode": ("training", "mode"),
    "LoRA rank": ("lora", "r"),
    "LoRA alpha": ("lora", "alpha"),
    "LoRA target modules": ("lora", "target_modules"),
    "rsLoRA": ("lora", "rslora"),
    "DoRA": ("lora", "dora"),
    "Epochs": ("training", "epochs"),
    "Learning rate": ("training", "learning_rate"),
    "Schedule": ("training", "schedule"),
    "Batch size": ("training", "batch_size"),
    "Gradient accumulation": ("training", "gradient_accumulation"),
    "Seed": ("training", "seed"),
}
"""Row of the card -> place in the training settings. No paths among them."""
SYSTEMS = {
    "icd9cm": "ICD-9-CM diagnoses",
    "icd9pcs": "ICD-9-CM procedures",
    "icd10cm": "ICD-10-CM",
    "icd10pcs": "ICD-10-PCS",
    "hcpcs": "HCPCS",
    "cpt": "CPT",
}
LORA_END = "-LoRA-F32.gguf"
"""The name of an adapter's own GGUF file ends so."""
RELEASES = {"mimic-iii": "MIMIC-III", "mimic-iv": "MIMIC-IV"}


@dataclass(frozen=True)
class Companions:
    """What a card tells of the folder's other contents, and of the base model."""

    checksums: Mapping[str, str]
    """sha256 of each GGUF file, by name; the adapter's own (`LORA_END`) is told of if it is there."""
    license: str
    """The base model's."""
    license_files: Sequence[str]
    """Names of its licence files in the folder."""
    answer_tokens: int
    """Tokens of an answer at most."""
    end: str
    """Text of the end-of-text token."""
    begin: str
    """Text of the token that programs put before every text themselves; empty: none."""


def model_card(
    manifest: BundleManifest, vocabulary: Vocabulary, reports: Sequence[GgufReport], companions: Companions
) -> str:
    """Return README.md for a bundle that answers with codes, as model cards on Hugging Face look.

    Args:
        manifest: The bundle's.
        vocabulary: The bundle's codes.
        reports: What verification found, one a GGUF file, in the order in which they are shown.
        companions: What is in the folder, and of which base model.
    """
    codes = [code.text for code in vocabulary.codes]
    systems = Counter(code.system for code in vocabulary.codes)
    return fill(
        "model_card.md.jinja",
        **framed(manifest, reports, companions, example=EXAMPLE_NOTE),
        data_terms="data use agreement",
        asked="notes",
        asked_one="note",
        documents="documents",
        code_count=len(codes),
        systems=[(SYSTEMS.get(system, system), count) for system, count in systems.most_common()],
        answer=manifest.prompt.completion(codes[:2]),
        spaces=LABEL_SPACES,
        results=_results(manifest.metrics),
    )


def framed(
    manifest: BundleManifest, reports: Sequence[GgufReport], companions: Companions, *, example: str
) -> dict[str, Any]:
    """Return what card_frame.md.jinja tells of every bundle, whatever it answers with; `example` is asked of it."""
    gate = {report.file: quantization(report.quantization).gate for report in reports}
    label = {report.file: quantization(report.quantization).label for report in reports}
    return {
        "manifest": manifest,
        "model": f"medcode-{manifest.recipe}-{manifest.version}",
        "base": base_name(manifest.base_model.id),
        "release": RELEASES.get(manifest.data.release, manifest.data.release),
        "license": companions.license,
        "license_files": companions.license_files,
        "reports": reports,
        "judged": [report for report in reports if report.f1],
        "unjudged": [report for report in reports if not report.f1],
        "positions": [report.positions for report in reports],
        "served": served_file(reports),
        "same_notes": _same_notes(reports),
        "label": label,
        "gate": gate,
        "let_go": [label[report.file] for report in reports if report.top1_agreement < gate[report.file].top1],
        "lora": next((name for name in companions.checksums if name.endswith(LORA_END)), None),
        "lora_gate": QUANTIZATIONS["f16"].gate,
        "fallen_back": {report.file: fallen_back(report) for report in reports},
        "verifiers": sorted({report.verifier for report in reports}),
        "checksums": companions.checksums,
        "prompt": manifest.prompt.render(example),
        "opening": companions.begin if manifest.prompt.instruction.startswith(companions.begin) else "",
        "example": example,
        "end": companions.end,
        "prompt_tokens": manifest.decoding.max_prompt_tokens,
        "answer_tokens": companions.answer_tokens,
        "settings": _settings(manifest.provenance.settings),
    }


def served_file(reports: Sequence[GgufReport]) -> str:
    """Return the file that serves where nobody chose."""
    return min(reports, key=lambda report: SERVED_FIRST.index(report.quantization)).file


def base_name(model_id: str) -> str:
    """Return a base model's id; of a local folder only its name: where it lies is nobody's business."""
    return Path(model_id).name if Path(model_id).is_absolute() else model_id


def fallen_back(report: GgufReport) -> dict[str, int]:
    """Return, by type, how many matrices have another type than their file's: their rows do not divide by its blocks.

    A K-quant mixes K types of several sizes on purpose; vectors are f32 in every file.
    """
    k_quant = quantization(report.quantization).by_llamacpp
    label = quantization(report.quantization).label
    return {
        kind: count
        for kind, count in report.tensor_types.items()
        if kind != "F32" and (not kind.endswith("_K") if k_quant else kind != label)
    }


def _same_notes(reports: Sequence[GgufReport]) -> bool:
    """Tell whether all that were scored were scored on the same notes, as far as a card shows it.

    A report that an earlier export made may rest on others.
    """
    return len({(report.f1.notes, f"{report.f1.merged:.3f}") for report in reports if report.f1}) <= 1


def _results(metrics: Sequence[Metric]) -> list[tuple[str, str, list[str]]]:
    """Return (engine, metric, cell of each label space) of what was measured on the test split, over whole codes."""
    measured = {
        (metric.engine, metric.name, metric.label_space): metric_cell(metric)
        for metric in metrics
        if (metric.split, metric.level, metric.group) == ("test", "code", "all")
    }
    rows = [
        (engine, name, [measured.get((key, metric, space), "–") for space in LABEL_SPACES])
        for key, engine in ENGINES.items()
        for metric, name in METRICS.items()
        if key == "adapter" or metric == "micro_f1"
    ]
    return [row for row in rows if set(row[2]) != {"–"}]


def metric_cell(metric: Metric) -> str:
    """Return a measured number with its interval, as the cards' tables have it."""
    interval = f" ({metric.low:.3f}–{metric.high:.3f})" if metric.low is not None and metric.high is not None else ""
    return f"{metric.value:.3f}{interval}"


def _settings(settings: Mapping[str, Any]) -> list[tuple[str, str]]:
    rows = []
    for title, (section, key) in SETTINGS.items():
        value = (settings.get(section) or {}).get(key)
        if value is not None and not (section == "lora" and (settings.get("training") or {}).get("mode") == "full"):
            rows.append((title, ", ".join(map(str, value)) if isinstance(value, list) else str(value)))
    return rows
