"""What files are held against the merged model on: prompts, and notes with their codes."""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path

from pydantic import TypeAdapter
from tqdm import tqdm

from medcode_assets.evaluation.predictions import LabelledNotes
from medcode_assets.export.answers import compare_f1
from medcode_assets.export.lora_check import lora_problems
from medcode_assets.export.metadata import ModelMetadata
from medcode_assets.export.reference import TransformersModel
from medcode_assets.export.report import F1Comparison, GgufReport
from medcode_assets.export.verify import CLINICAL_SAMPLE, f1_problems, verify_gguf
from medcode_assets.progress import advance, step
from medcode_serving.base_models import LocalModel
from medcode_serving.bundle import TRIES, Bundle
from medcode_serving.codes.vocabulary import Vocabulary
from medcode_serving.engines.protocol import NoteOptions, Prediction

_PREDICTIONS = TypeAdapter(list[Prediction])


@dataclass(frozen=True)
class ValidationSample:
    """Prompts and notes; they reach no report, and no disk."""

    prompts: tuple[str, ...]
    """Rendered, as training saw them; at least one."""
    notes: LabelledNotes | None = None
    """Notes of the validation split for micro F1; None: it is not measured."""
    invented: bool = False
    """Whether the prompts hold made-up text, because no validation notes are at hand."""

    @property
    def fingerprint(self) -> str:
        """A sha256 over all of it."""
        return hashlib.sha256(repr((self.prompts, self.notes)).encode()).hexdigest()


def invented_sample(bundle: Bundle, prompts: int) -> ValidationSample:
    """Return a sample for where no validation notes are at hand: invented text in the bundle's own prompt."""
    texts = [text for text in CLINICAL_SAMPLE if text.strip()]
    chosen = texts[:: -(-len(texts) // prompts)]
    return ValidationSample(tuple(map(bundle.manifest.prompt.render, chosen)), invented=True)


def measured(sample: ValidationSample, reports: Sequence[GgufReport]) -> dict[str, str | int]:
    """Return what reports rest on: the kind of sample, and how much of it each of them saw at least.

    Args:
        sample: Of the export that returned the reports; one that it kept from before may rest on a better sample.
        reports: One a file, at least one.
    """
    f1_notes = min(report.f1.notes if report.f1 else 0 for report in reports)
    return {
        "sample": "invented text" if sample.invented and not f1_notes else "validation notes",
        "prompts": min(report.greedy_total for report in reports),
        "positions": min(report.positions for report in reports),
        "f1_notes": f1_notes,
    }


class MergedAnswers:
    """The merged model's answers to a sample's notes: an engine that makes them once.

    In fp32 on the CPU, as the next-token distributions are compared. They are kept beside the work, without the notes:
    for a real model they take the better part of an hour.
    """

    name = "merged"

    def __init__(self, merged: Path, bundle: Bundle, folder: Path, sample: ValidationSample) -> None:
        """Remember where things are; nothing is loaded yet.

        Args:
            merged: The merged model's folder.
            bundle: Whose codes, prompt and limits.
            folder: Where the answers are kept.
            sample: The only notes that are asked for.
        """
        self._merged, self._bundle, self._folder = merged, bundle, folder
        self._file = folder / f"{sample.fingerprint[:16]}.json"
        self._answers: list[Prediction] | None = None

    def predict(
        self,
        notes: Sequence[str],
        *,
        options: Sequence[NoteOptions] | None = None,
        on_progress: Callable[[int], None] | None = None,
    ) -> list[Prediction]:
        """Return one prediction a note of the sample."""
        if self._answers is None:
            self._answers = self._kept() or self._made(notes)
        return self._answers

    def close(self) -> None:
        """Hold nothing any more."""
        self._answers = None

    def _kept(self) -> list[Prediction] | None:
        try:
            return _PREDICTIONS.validate_json(self._file.read_bytes())
        except (OSError, ValueError):
            return None

    def _made(self, notes: Sequence[str]) -> list[Prediction]:
        from medcode_serving.engines.transformers import TransformersEngine

        manifest = self._bundle.manifest
        engine = TransformersEngine(
            self.name,
            self._merged,
            None,
            Vocabulary.read(self._bundle.codes),
            manifest.prompt,
            manifest.decoding,
            device="cpu",
            dtype="float32",
            trie_folders=_trie_folders(self._bundle, self._folder),
        )
        with tqdm(total=len(notes), desc="answering: merged model", unit="note", delay=1) as bar:
            answers = engine.predict(notes, on_progress=partial(step, bar))
        engine.close()
        self._folder.mkdir(parents=True, exist_ok=True)
        aside = self._folder / f".{self._file.name}"
        aside.write_bytes(_PREDICTIONS.dump_json(answers))
        aside.replace(self._file)
        return answers


class Verification:
    """How the files of one bundle are held against its merged model."""

    def __init__(
        self,
        bundle: Bundle,
        base: LocalModel,
        merged: Path,
        sample: ValidationSample,
        *,
        most_f1_lost: float,
        metadata: ModelMetadata,
        folder: Path,
    ) -> None:
        """Nothing is loaded yet.

        Args:
            bundle: Whose files.
            base: Its base model.
            merged: The merged model's folder.
            sample: What both are asked.
            most_f1_lost: Micro F1 that a file may lose.
            metadata: What the files must say about themselves, if medcode made them.
            folder: Where the merged model's answers and the trie of the codes are kept.
        """
        self._bundle, self._base, self._merged, self._sample = bundle, base, merged, sample
        self._most_f1_lost, self._metadata, self._folder = most_f1_lost, metadata, folder
        self._answers = MergedAnswers(merged, bundle, folder, sample)

    @cached_property
    def _reference(self) -> TransformersModel:
        return TransformersModel(self._merged)

    @property
    def fingerprint(self) -> str:
        """A sha256 over the sample and, where F1 is measured, what a file may lose."""
        lost = self._most_f1_lost if self._sample.notes else None
        return hashlib.sha256(f"{self._sample.fingerprint} {lost}".encode()).hexdigest()

    def stands(self, report: GgufReport, verified_on: str) -> bool:
        """Tell whether an earlier report says all that a new one would say.

        Where there are notes, the earlier one must rest on the same sample and limit. Where there are none, as on a
        machine without the warehouse, a report with F1 says more than a new one could: it stands, whatever its prompts
        were, unless its F1 loses more than is allowed now.

        Args:
            report: Of a file that did not change since.
            verified_on: The `fingerprint` that it rests on.
        """
        if self._sample.notes or report.f1 is None:
            return verified_on == self.fingerprint
        return not f1_problems(report.f1, self._most_f1_lost)

    def report(self, file: Path, *, f1: F1Comparison | None = None, foreign: bool = False) -> GgufReport:
        """Hold a file against the merged model. Raises as `verify_gguf` does.

        Args:
            file: The file.
            f1: What was measured of it before; counts where the sample has no notes to measure it on.
            foreign: Another program made it, and says of the model what it likes.
        """
        label = file.stem.rpartition("-")[2]
        if self._sample.notes:
            f1 = self._f1(file, label, self._sample.notes)
        with tqdm(desc=f"verifying {label}", unit="prompt", delay=1) as bar:
            return verify_gguf(
                file,
                self._merged,
                self._sample.prompts,
                base=self._base.path,
                prompt=self._bundle.manifest.prompt,
                f1=f1,
                most_f1_lost=self._most_f1_lost,
                reference=self._reference,
                metadata=None if foreign else self._metadata,
                on_progress=partial(advance, bar),
            )

    def lora_problems(self, lora: Path, base_gguf: Path) -> list[str]:
        """Hold an adapter's own file, over its base model in f32, against the merged model; return what is wrong."""
        prompt = self._bundle.manifest.prompt
        return lora_problems(lora, base_gguf, self._reference, self._sample.prompts, prompt)

    def _f1(self, file: Path, label: str, notes: LabelledNotes) -> F1Comparison:
        from medcode_serving.engines.llamacpp import LlamaCppEngine

        manifest = self._bundle.manifest
        self._answers.predict(notes.notes)  # before llama.cpp holds a second model
        engine = LlamaCppEngine(
            file,
            self._merged,
            Vocabulary.read(self._bundle.codes),
            manifest.prompt,
            manifest.decoding,
            trie_folders=_trie_folders(self._bundle, self._folder),
        )
        try:
            with tqdm(total=len(notes), desc=f"answering: {label}", unit="note", delay=1) as bar:
                return compare_f1(
                    self._answers,
                    engine,
                    notes.notes,
                    notes.gold,
                    self._bundle.decision("adapter"),
                    on_progress=partial(step, bar),
                )
        finally:
            engine.close()


def _trie_folders(bundle: Bundle, folder: Path) -> tuple[Path, ...]:
    """Return where the trie of a bundle's codes may be; one that is not in the bundle is kept in `folder`."""
    return bundle.path / TRIES, folder / TRIES
