"""Proof that a GGUF file answers as the merged model does.

Each question alone is blind to something (measured in shared/field/gguf.md): are the weights the merged ones (a
forgotten LoRA, a corrupted tensor), is the fine-tune in each of them (one unmerged tensor is lost in the noise of
4 bits), is the header the model's (two tokens swapped that no compared text has), does the tokenizer split alike (a
wrong pre-tokenizer), does a chat window send the prompt of training, and does llama.cpp compute the same distributions
(wrong rope, forgotten permutation)?
"""

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import resources
from importlib.metadata import version
from pathlib import Path

import yaml

from medcode_assets.export.distributions import NEW_TOKENS, Comparison, compare
from medcode_assets.export.header import changed_fields
from medcode_assets.export.llamacpp import LlamaCppModel
from medcode_assets.export.metadata import ModelMetadata
from medcode_assets.export.quantizations import Gate, Quantization
from medcode_assets.export.reference import TransformersModel
from medcode_assets.export.report import F1Comparison, GgufReport
from medcode_assets.export.tensors import changed_tensors, fine_tune_kept, read_quantization, tensor_types
from medcode_serving.engines.llamacpp_server import LlamaCppServer
from medcode_serving.errors import MedcodeError
from medcode_serving.prompts import PromptTemplate, normalise_note

CLINICAL_SAMPLE: tuple[str, ...] = tuple(
    yaml.safe_load(resources.files(__package__).joinpath("clinical_sample.yaml").read_text("utf-8"))
)
"""Invented notes, some 60, that a tokenizer may split otherwise than another one."""

_KEPT = (0.8, 1.2)
"""Share of the fine-tune that each changed tensor must hold: 1, give or take four standard errors of the tensors that
`fine_tune_kept` judges (of some 200 the farthest is some three from 1); an unmerged tensor holds 0, one into which the
adapter was merged twice 2."""
_UNLIKELY = 0.01
"""Probability below which a share is no chance."""
_SYSTEM = {"role": "system", "content": "You are a helpful assistant."}
"""What chat windows put in front without being asked."""


@dataclass(frozen=True)
class _Weights:
    """The tensors and the header of the file against the merged model's."""

    total: int
    changed: list[str]
    types: dict[str, int]
    kept: tuple[float, str] | None
    fields: tuple[str, ...]
    """Those of the header that differ."""


@dataclass(frozen=True)
class _Texts:
    """What the file makes of text."""

    total: int
    mismatches: int
    template_equal: bool | None


def verify_gguf(
    gguf_file: Path,
    merged: Path,
    prompts: Sequence[str],
    *,
    base: Path | None = None,
    prompt: PromptTemplate | None = None,
    metadata: ModelMetadata | None = None,
    f1: F1Comparison | None = None,
    most_f1_lost: float = 0.03,
    reference: TransformersModel | None = None,
    on_progress: Callable[[int, int], None] | None = None,
) -> GgufReport:
    """Compare a GGUF file, run by llama.cpp, with the merged model it was made from, run by transformers in fp32.

    Args:
        gguf_file: The exported file, in any of `QUANTIZATIONS`.
        merged: The merged model's folder.
        prompts: Rendered prompts (`PromptTemplate.render`), at least one; they reach no report.
        base: The base model's folder, to tell how much of the fine-tune each tensor holds; None: not told.
        prompt: Words around a note that the file's chat template must render; None: not compared.
        metadata: What the file must say about itself; None: only hyperparameters and tokenizer are compared.
        f1: What `compare_f1` measured, if it did.
        most_f1_lost: Micro F1 that the file may lose; more is a problem if it cannot be chance, more than twice as
            much is one in any case.
        reference: The merged model, loaded; None: it is loaded here.
        on_progress: Told (prompts compared, prompts in all).

    Returns:
        The report; `passed` is what an asset check blocks on, `problems` says why not.

    Raises:
        MedcodeError: the file cannot be read at all, llama.cpp is not installed, or there are no prompts.
    """
    started = time.monotonic()
    if not prompts or not all(prompts):
        raise MedcodeError("verifying a GGUF file needs prompts that are not empty; give some of validation")
    quantization = read_quantization(gguf_file)
    weights = _Weights(
        *changed_tensors(gguf_file, merged),
        tensor_types(gguf_file),
        fine_tune_kept(gguf_file, merged, base) if base is not None else None,
        changed_fields(gguf_file, merged, metadata),
    )
    reference = reference or TransformersModel(merged)
    encoded = _fitting_prompts(reference, prompts, prompt)
    with LlamaCppModel(gguf_file, max(map(len, encoded)) + NEW_TOKENS + 8) as model:
        texts = _texts(reference, model, prompts, prompt)
        comparison = compare(reference, model, encoded, on_progress)
    report = _report(gguf_file, quantization, weights, texts, comparison, f1)
    problems = (
        *_weight_problems(weights, quantization),
        *_text_problems(texts),
        *_answer_problems(report, quantization.gate, comparison),
        *f1_problems(f1, most_f1_lost),
    )
    return report.model_copy(update={"problems": problems, "seconds": round(time.monotonic() - started, 2)})


def _fitting_prompts(
    reference: TransformersModel, prompts: Sequence[str], prompt: PromptTemplate | None
) -> list[list[int]]:
    """Tokenize the prompts as training does, cutting what would leave no room for an answer in the model's context."""
    limit = reference.context_length - NEW_TOKENS - 8
    return [reference.prompt_tokens(text, prompt)[:limit] for text in prompts]


def _texts(
    reference: TransformersModel, model: LlamaCppModel, prompts: Sequence[str], prompt: PromptTemplate | None
) -> _Texts:
    """Compare tokens with those of training, and the chat template with its prompt."""
    texts = [*map((prompt or PromptTemplate()).render, CLINICAL_SAMPLE), *prompts]
    chats = CLINICAL_SAMPLE if prompt is not None and prompt.markup else ()
    return _Texts(
        total=len(texts) + len(chats),
        mismatches=sum(reference.tokenize(text) != model.tokenize(text) for text in texts)
        + sum(not _splits_chat(reference, model.server, prompt, note) for note in chats if prompt is not None),
        template_equal=None
        if prompt is None
        else _renders(model.server, prompt, CLINICAL_SAMPLE, opening=reference.opening),
    )


def _splits_chat(reference: TransformersModel, server: LlamaCppServer, prompt: PromptTemplate, note: str) -> bool:
    """Tell whether a chat about a note has the tokens that it must have: the markup's special ones, each once.

    llama.cpp takes an opening token off what the chat template renders, and puts it back when it splits the text.
    """
    note = normalise_note(note)
    rendered = server.post("/apply-template", messages=[{"role": "user", "content": note}])["prompt"]
    found: list[int] = server.post("/tokenize", content=rendered, add_special=True, parse_special=True)["tokens"]
    return found == reference.chat_tokens(note, prompt)


def _renders(server: LlamaCppServer, prompt: PromptTemplate, notes: Sequence[str], opening: str = "") -> bool:
    """Tell whether the file's chat template makes of a note the prompt of training.

    All but an opening token that llama.cpp puts there itself: it takes that off what the template renders.

    Notes are given in NFC with ASCII blanks around them, which the template must take away: NFC and other blanks are
    beyond Jinja. Each is asked for alone and after a system message, which training never saw and which must leave no
    trace; llama.cpp puts it into the note if the template does not read it.
    """
    for note in map(normalise_note, notes):
        asked = {"role": "user", "content": f" \t{note}\r\n\n"}
        for messages in ([asked], [_SYSTEM, asked]):
            if server.post("/apply-template", messages=messages)["prompt"] != prompt.render(note).removeprefix(opening):
                return False
    return True


def _report(
    file: Path,
    quantization: Quantization,
    weights: _Weights,
    texts: _Texts,
    comparison: Comparison,
    f1: F1Comparison | None,
) -> GgufReport:
    """Return what came out, before it is judged and timed."""
    import numpy as np

    return GgufReport(
        file=file.name,
        quantization=quantization.name,
        size_bytes=file.stat().st_size,
        verifier=f"llama.cpp (xllamacpp {version('xllamacpp')})",
        tensors=weights.total,
        changed_tensors=len(weights.changed),
        changed_fields=weights.fields,
        tensor_types=weights.types,
        fine_tune_kept=None if weights.kept is None else weights.kept[0],
        texts=texts.total,
        token_mismatches=texts.mismatches,
        template_equal=texts.template_equal,
        positions=len(comparison.kl),
        kl_mean=float(np.mean(comparison.kl)),
        kl_max=float(np.max(comparison.kl)),
        top1_agreement=float(np.mean(comparison.same_top)),
        max_log_probability_difference=float(np.max(comparison.differences)),
        greedy_equal=comparison.greedy_equal,
        greedy_total=comparison.greedy_equal + len(comparison.parted),
        f1=f1,
        seconds=0,
    )


def _weight_problems(weights: _Weights, quantization: Quantization) -> list[str]:
    problems = []
    if changed := weights.changed:
        problems.append(f"{len(changed)} of {weights.total} tensors are not the merged model's, {changed[0]} for one")
    low, high = _KEPT
    # A file that is the model's bit for bit may hold none of a change that is smaller than the format's steps: that is
    # so, and no fault of the export.
    exact = not quantization.by_llamacpp and not weights.changed
    if weights.kept is not None and not exact and not low <= weights.kept[0] <= high:
        share, name = weights.kept
        problems.append(
            f"tensor {name} holds {share:.1%} of what the fine-tune changed, {low:.0%} to {high:.0%} is expected"
        )
    if fields := weights.fields:
        count = "1 field of the header is" if len(fields) == 1 else f"{len(fields)} fields of the header are"
        problems.append(f"{count} not the model's, {fields[0]} for one")
    return problems


def _text_problems(texts: _Texts) -> list[str]:
    problems = []
    if texts.mismatches:
        problems.append(f"{texts.mismatches} of {texts.total} texts are tokenized otherwise than in training")
    if texts.template_equal is False:
        problems.append("the chat template does not render the prompt of training")
    return problems


def _answer_problems(report: GgufReport, gate: Gate, comparison: Comparison) -> list[str]:
    problems = []
    if not math.isfinite(report.kl_mean):
        problems.append("llama.cpp computes what is no number")
    elif report.kl_mean > gate.kl:
        problems.append(f"next-token distributions differ: KL {report.kl_mean:.2g}, at most {gate.kl:.0e} is expected")
    if not report.top1_agreement >= gate.top1 and not _by_chance(comparison.overturned, report.positions, gate):
        problems.append(
            f"the likeliest token differs too often: top-1 agreement {report.top1_agreement:.4f}, expected {gate.top1}"
        )
    clear = [number for number, preference in comparison.parted if not preference <= gate.near_tie]
    if clear:
        problems.append(
            f"{len(clear)} greedy answers part where the merged model had a clear preference, prompt {clear[0]} for one"
        )
    return problems


def _by_chance(overturned: list[float], positions: int, gate: Gate) -> bool:
    """Tell whether a share of other likeliest tokens beyond the gate's may be chance, and each is a near tie.

    A share is no sharp bound on a small sample: of 31 positions, one weighs 3.2 %, and the 2 % that q8_0 may lose are
    none. So more are let go, as many as that share gives in one sample of a hundred; but only where rounding can turn
    a token over, as in greedy answers: one clear preference that is lost, and the share alone decides.
    """
    from scipy.stats import binom

    likely = binom.sf(len(overturned) - 1, positions, 1 - gate.top1) >= _UNLIKELY
    return bool(likely) and all(preference <= gate.near_tie for preference in overturned)


def f1_problems(f1: F1Comparison | None, most_lost: float) -> list[str]:
    """Return what is wrong with a loss of micro F1: that it cannot be chance, or is too great for any."""
    if f1 is None or f1.loss <= most_lost:
        return []
    if f1.low <= 0 and f1.loss <= 2 * most_lost:  # may be chance; but few notes have intervals that excuse any loss
        return []
    interval = f"95 % interval of the loss {f1.low:.4f} to {f1.high:.4f}"
    return [f"micro F1 falls from {f1.merged:.4f} to {f1.file:.4f} ({interval}); at most {most_lost} may be lost"]
