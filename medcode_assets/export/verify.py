"""Proof that a GGUF file answers as the merged model does.

Three questions, because each alone is blind to something (measured in shared/field/gguf.md): are the weights
the merged ones (a forgotten LoRA, a corrupted tensor), does the tokenizer split alike (a wrong pre-tokenizer
shows in nothing else), and does llama.cpp compute the same distributions from them (wrong rope, forgotten
permutation)?
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import BaseModel, ConfigDict, Field

from medcode_assets.export.llamacpp import LlamaCppModel, llamacpp_available
from medcode_assets.export.reference import LanguageModel, TransformersModel
from medcode_assets.export.tensors import changed_tensors, read_file_type
from medcode_serving.errors import MedcodeError

if TYPE_CHECKING:
    import numpy as np

CLINICAL_SAMPLE = (
    "Pt is a 67 y/o M w/ h/o T2DM, HTN & COPD; HR 112, BP 90/60, T 38.5 °C, SpO2 91% on 2L.",
    "[** Known lastname **] was admitted on [** 2150-3-14 **] by Dr. ___, ___ Hospital.",
    "Discharge Diagnosis:\n\n1. Pneumonia (J18.9)\n2. Sepsis\t(A41.9)\r\n\r\n\n   3. AKI -- resolved",
    "Na 141, K+ 3.9, Cr 1.2->2.4 mg/dL; WBC 12.3*10^9/L; INR 2.5; dose 0.25mcg/kg/min x10d",
    "Paciente de 81 años con disnea; naïve façade – “β-blocker” ≥ 25 µg … ½ ½",
    "中文 한국어 🩺🫀 \u200b\u00a0 end  of   line    ",
    "don't WE'LL they're I'd 's 'S 0331 744 V45.81 E849.0 0DTJ4ZZ 99213 1234567890",
    "",
)
"""Numbers, units, new lines, unicode, de-identification marks; invented, so that it may be shown."""

_PROMPT_POSITIONS = 16
_NEW_TOKENS = 32
_MASS_TOLERANCE = 1e-3


@dataclass(frozen=True)
class Gate:
    """How far a file type may be from the merged model; from the table of shared/field/gguf.md."""

    kl: float
    """Mean KL divergence of the next-token distributions, nats."""
    top1: float
    """Share of positions with the same likeliest token."""
    near_tie: float
    """Greedy answers may part where the merged model preferred its token by less than this, nats."""


GATES = {
    "f32": Gate(kl=1e-8, top1=0.999, near_tie=0.01),
    "f16": Gate(kl=1e-5, top1=0.995, near_tie=0.05),
    "q8_0": Gate(kl=1e-3, top1=0.98, near_tie=0.5),
}


class GgufReport(BaseModel):
    """What was compared and what came out; holds no text of any prompt."""

    model_config = ConfigDict(frozen=True, extra="forbid", ser_json_inf_nan="null")

    file: str
    file_type: str
    size_bytes: int
    verifier: str = Field(description="Which program ran the file: llama.cpp (the extra is installed) or transformers.")
    tensors: int
    changed_tensors: int
    texts: int = Field(description="Prompts and clinical samples that were tokenized.")
    token_mismatches: int = Field(description="Texts that the file's tokenizer splits otherwise.")
    positions: int = Field(description="Next-token distributions that were compared.")
    kl_mean: float = Field(description="Nats, merged model against file.")
    kl_max: float
    top1_agreement: float
    max_log_probability_difference: float = Field(description="Over tokens of at least 0.1 % probability, nats.")
    greedy_equal: int = Field(description="Prompts with equal greedy answers.")
    greedy_total: int
    seconds: float
    problems: tuple[str, ...] = ()

    @property
    def passed(self) -> bool:
        """Whether the file may be delivered."""
        return not self.problems


@dataclass
class _Comparison:
    """Distributions and answers of the prompts seen so far."""

    kl: list[float] = field(default_factory=list)
    same_top: list[bool] = field(default_factory=list)
    differences: list[float] = field(default_factory=list)
    greedy_equal: int = 0
    parted: list[tuple[int, float]] = field(default_factory=list)
    """(number of the prompt, by how many nats the merged model preferred its own token)"""


def verify_gguf(
    gguf_file: Path,
    merged: Path,
    prompts: Sequence[str],
    *,
    on_progress: Callable[[int, int], None] | None = None,
) -> GgufReport:
    """Compare a GGUF file with the merged model it was made from.

    Runs the file in llama.cpp where the extra `llamacpp` is installed, and in transformers' own GGUF loader
    otherwise: exact for Qwen2's weights, but no proof that llama.cpp reads them so. The report says which.

    Args:
        gguf_file: The exported file: f32, f16 or q8_0.
        merged: The merged model's folder.
        prompts: Rendered prompts (`PromptTemplate.render`), at least one; they reach no report.
        on_progress: Told (prompts compared, prompts in all).

    Returns:
        The report; `passed` is what an asset check blocks on, `problems` says why not.

    Raises:
        MedcodeError: the file cannot be read at all, or there are no prompts.
    """
    started = time.monotonic()
    if not prompts or not all(prompts):
        raise MedcodeError("verifying a GGUF file needs prompts that are not empty; give some of validation")
    file_type = read_file_type(gguf_file)
    total, changed = changed_tensors(gguf_file, merged)
    reference = TransformersModel(merged)
    texts = [*CLINICAL_SAMPLE, *prompts]
    encoded = _fitting_prompts(reference, prompts)
    if llamacpp_available():
        with LlamaCppModel(gguf_file, max(map(len, encoded)) + _NEW_TOKENS + 8) as model:
            mismatches = _token_mismatches(reference, model, texts)
            comparison = _compare(reference, model, encoded, on_progress)
    else:
        peer = TransformersModel(gguf_file)
        mismatches = _token_mismatches(reference, peer, texts)
        comparison = _compare(reference, peer, encoded, on_progress)
    return _report(gguf_file, file_type, (total, changed), (len(texts), mismatches), comparison, started)


def _fitting_prompts(reference: TransformersModel, prompts: Sequence[str]) -> list[list[int]]:
    """Tokenize the prompts, cutting what would leave no room for an answer in the model's context."""
    limit = reference.context_length - _NEW_TOKENS - 8
    return [reference.tokenize(prompt)[:limit] for prompt in prompts]


def _token_mismatches(reference: LanguageModel, model: LanguageModel, texts: list[str]) -> int:
    return sum(reference.tokenize(text) != model.tokenize(text) for text in texts)


def _compare(
    reference: LanguageModel,
    model: LanguageModel,
    prompts: list[list[int]],
    on_progress: Callable[[int, int], None] | None,
) -> _Comparison:
    """Compare distributions at some positions of each prompt and at all of its greedy answer."""
    import numpy as np

    result = _Comparison()
    for number, prompt in enumerate(prompts):
        answer = reference.greedy(prompt, _NEW_TOKENS)
        ends = np.linspace(0, len(prompt) - 1, min(_PROMPT_POSITIONS, len(prompt))).astype(int)
        positions = sorted({*ends.tolist(), *range(len(prompt) - 1, len(prompt) + len(answer) - 1)})
        tokens = prompt + answer
        expected = reference.log_probabilities(tokens, positions)
        found = model.log_probabilities(tokens, positions)
        result.kl.extend(divergence(expected, found))
        result.same_top.extend(expected.argmax(1) == _known_argmax(found))
        result.differences.append(_largest_difference(expected, found))
        answer_rows = expected[positions.index(len(prompt) - 1) :]
        preference = parting_preference(answer_rows, answer, model.greedy(prompt, _NEW_TOKENS))
        if preference is None:
            result.greedy_equal += 1
        else:
            result.parted.append((number, preference))
        if on_progress is not None:
            on_progress(number + 1, len(prompts))
    return result


def divergence(expected: "np.ndarray", found: "np.ndarray") -> list[float]:
    """Return KL(expected || found) of each row of natural log-probabilities [rows, vocabulary], in nats.

    Where `found` does not tell all tokens (NaN), this is a lower bound by KL's chain rule: the divergence within the
    told tokens, times their mass, plus that between told and untold. The second is left out as long as the masses
    agree within 1e-3: llama.cpp adds up its softmax in fp32, and the sums are off by 1e-5 (seen), which would look
    like a KL of that size. A row that tells nothing gives NaN.
    """
    import numpy as np

    divergences = []
    for p, log_q in zip(np.exp(expected), found, strict=True):
        told = np.isfinite(log_q)
        if not told.any():
            divergences.append(float("nan"))
            continue
        q = np.exp(log_q[told])
        p_mass, q_mass = p[told].sum(), q.sum()
        kl = p_mass * _kl(p[told] / p_mass, q / q_mass)
        if abs(p_mass - q_mass) > _MASS_TOLERANCE:
            kl += _kl(np.array([p_mass, 1 - p_mass]), np.array([q_mass, max(1 - q_mass, 1e-12)]))
        divergences.append(float(kl))
    return divergences


def _kl(p: "np.ndarray", q: "np.ndarray") -> float:
    import numpy as np

    positive = p > 0
    return float((p[positive] * np.log(p[positive] / q[positive])).sum())


def parting_preference(rows: "np.ndarray", expected: list[int], found: list[int]) -> float | None:
    """Return by how many nats the merged model preferred its own token where two greedy answers part.

    Args:
        rows: The merged model's log-probabilities [answer tokens, vocabulary] along its own answer.
        expected: The merged model's answer.
        found: The file's answer.

    Returns:
        None if the answers are equal; infinity if one stops where the other goes on.
    """
    for row, mine, other in zip(rows, expected, found, strict=False):
        if mine != other:
            return float(row[mine] - row[other])
    return None if len(expected) == len(found) else float("inf")


def _known_argmax(found: "np.ndarray") -> "np.ndarray":
    """Return the likeliest token of each row, -1 where no probability is told."""
    import numpy as np

    return np.where(np.isfinite(found).any(1), np.where(np.isfinite(found), found, -np.inf).argmax(1), -1)


def _largest_difference(expected: "np.ndarray", found: "np.ndarray") -> float:
    import numpy as np

    told = (expected > np.log(1e-3)) & np.isfinite(found)
    return float(np.abs(expected - found)[told].max(initial=0.0))


def _report(
    file: Path,
    file_type: str,
    tensors: tuple[int, list[str]],
    tokens: tuple[int, int],
    comparison: _Comparison,
    started: float,
) -> GgufReport:
    import numpy as np

    kl_mean, top1 = float(np.mean(comparison.kl)), float(np.mean(comparison.same_top))
    return GgufReport(
        file=file.name,
        file_type=file_type,
        size_bytes=file.stat().st_size,
        verifier=_verifier(),
        tensors=tensors[0],
        changed_tensors=len(tensors[1]),
        texts=tokens[0],
        token_mismatches=tokens[1],
        positions=len(comparison.kl),
        kl_mean=kl_mean,
        kl_max=float(np.max(comparison.kl)),
        top1_agreement=top1,
        max_log_probability_difference=float(np.max(comparison.differences)),
        greedy_equal=comparison.greedy_equal,
        greedy_total=comparison.greedy_equal + len(comparison.parted),
        seconds=round(time.monotonic() - started, 2),
        problems=tuple(_problems(GATES[file_type], tensors, tokens, kl_mean, top1, comparison.parted)),
    )


def _problems(
    gate: Gate,
    tensors: tuple[int, list[str]],
    tokens: tuple[int, int],
    kl_mean: float,
    top1: float,
    parted: list[tuple[int, float]],
) -> list[str]:
    problems = []
    if changed := tensors[1]:
        problems.append(f"{len(changed)} of {tensors[0]} tensors are not the merged model's, {changed[0]} for one")
    if tokens[1]:
        problems.append(f"{tokens[1]} of {tokens[0]} texts are tokenized otherwise than in training")
    if not kl_mean <= gate.kl:  # so that NaN is a problem
        problems.append(f"next-token distributions differ: KL {kl_mean:.2g}, at most {gate.kl:.0e} is expected")
    if not top1 >= gate.top1:
        problems.append(f"the likeliest token differs too often: top-1 agreement {top1:.4f}, expected {gate.top1}")
    clear = [number for number, preference in parted if not preference <= gate.near_tie]
    if clear:
        problems.append(
            f"{len(clear)} greedy answers part where the merged model had a clear preference, prompt {clear[0]} for one"
        )
    return problems


def _verifier() -> str:
    from importlib.metadata import version

    if llamacpp_available():
        return f"llama.cpp (xllamacpp {version('xllamacpp')})"
    return f"transformers {version('transformers')}"
