"""Prefill and decode of one model: transformers and llama.cpp side by side, each in its own process.

All models are loaded first and take turns, so that what else runs on the machine meets all of them. Prompts are random
tokens, new ones each round, so that no cache knows them. Prefill ends with the first new token. Decode goes on from
there, one forward pass a token, without an end of text. llama.cpp is asked through its server, as it is when it serves;
of transformers only the forward passes and the likeliest token count, not `generate`.
"""

import random
import statistics
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from own_process import Held, resident_megabytes

PROMPT, WRITTEN = 512, 64
"""Tokens."""


@dataclass(frozen=True)
class Side:
    """A model in a program."""

    path: Path
    """Folder for transformers, GGUF file for llama.cpp."""
    dtype: str = "float32"
    """For transformers."""


@dataclass
class Speed:
    """What one side did."""

    loading: float
    """Seconds, libraries already there."""
    before: float
    """MB that its process held before the model was loaded: Python and libraries."""
    prefill: list[float]
    """Tokens a second, one a round."""
    decode: list[float]
    """Tokens a second, one a round."""
    peak: float = 0.0
    """MB that its process held at most."""


class _Transformers:
    """A model folder in transformers, on the CPU."""

    def __init__(self, folder: Path, dtype: str, threads: int) -> None:
        import torch
        from transformers import AutoModelForCausalLM, Qwen2ForCausalLM  # noqa: F401 - loads a lot, which is not the model

        torch.set_num_threads(threads)
        self.before, begun = resident_megabytes(), time.perf_counter()
        self._model = AutoModelForCausalLM.from_pretrained(
            folder, dtype=getattr(torch, dtype), local_files_only=True
        ).eval()
        self.loading = time.perf_counter() - begun

    def taken(self, prompts: Sequence[list[int]]) -> tuple[float, float]:
        """Return seconds of prefill and of decode, all prompts together."""
        import torch

        prefill = decode = 0.0
        with torch.inference_mode():
            for prompt in prompts:
                begun = time.perf_counter()
                out = self._model(torch.tensor([prompt]), use_cache=True, logits_to_keep=1)
                token = out.logits[:, -1:].argmax(-1)
                read = time.perf_counter()
                for _ in range(WRITTEN):
                    out = self._model(token, past_key_values=out.past_key_values, use_cache=True)
                    token = out.logits.argmax(-1)
                prefill, decode = prefill + read - begun, decode + time.perf_counter() - read
        return prefill, decode


class _LlamaCpp:
    """A GGUF file in llama.cpp's server, on the CPU."""

    def __init__(self, file: Path, threads: int) -> None:
        import torch  # noqa: F401 - the server asks it for its threads
        import xllamacpp  # noqa: F401

        from medcode_serving.engines.llamacpp_server import LlamaCppServer

        self.before, begun = resident_megabytes(), time.perf_counter()
        self._server = LlamaCppServer(file, context_length=PROMPT + WRITTEN + 8, threads=threads)
        self.loading = time.perf_counter() - begun

    def taken(self, prompts: Sequence[list[int]]) -> tuple[float, float]:
        """As `_Transformers.taken`; decode finds the prompt in the server's cache."""
        prefill = decode = 0.0
        for prompt in prompts:
            begun = time.perf_counter()
            first = self._server.complete(prompt, 1, ignore_eos=True)["tokens"]
            read = time.perf_counter()
            answer = self._server.complete(prompt + first, WRITTEN, ignore_eos=True)
            prefill, decode = prefill + read - begun, decode + time.perf_counter() - read
            assert len(answer["tokens"]) == WRITTEN
            assert answer["timings"]["prompt_n"] == 1
        return prefill, decode


class _Loaded:
    """One side in its process."""

    def __init__(self, side: Side, threads: int) -> None:
        if side.path.suffix == ".gguf":
            self._model: Any = _LlamaCpp(side.path, threads)
        else:
            self._model = _Transformers(side.path, side.dtype, threads)

    def loaded(self) -> tuple[float, float]:
        """Return `Speed.loading` and `Speed.before`."""
        return self._model.loading, self._model.before

    def taken(self, prompts: Sequence[list[int]]) -> tuple[float, float]:
        """Return seconds of prefill and of decode."""
        return self._model.taken(prompts)


def measure(sides: Mapping[str, Side], *, tokens: int, rounds: int, threads: int, prompts: int = 1) -> dict[str, Speed]:
    """Let every side read prompts and write on, in turn.

    Args:
        sides: By name.
        tokens: The prompts' tokens are below this.
        rounds: How often each side has its turn; one more is not counted.
        threads: Of every side.
        prompts: Read and written after each other in one turn.
    """
    draw = random.Random(0)
    speeds: dict[str, Speed] = {}
    with ExitStack() as stack:
        held = {name: stack.enter_context(Held(_Loaded, side, threads)) for name, side in sides.items()}
        for name, side in held.items():
            loading, before = side.ask("loaded").result
            speeds[name] = Speed(loading, before, [], [])
        for turn in range(rounds + 1):
            drawn = [[draw.randrange(2, tokens) for _ in range(PROMPT)] for _ in range(prompts)]
            for name, side in held.items():
                answer = side.ask("taken", drawn)
                speeds[name].peak = answer.peak
                if turn:
                    prefill, decode = answer.result
                    speeds[name].prefill.append(prompts * PROMPT / prefill)
                    speeds[name].decode.append(prompts * WRITTEN / decode)
    return speeds


def ratio(ours: Sequence[float], theirs: Sequence[float]) -> str:
    """Return the median of the rounds' ratios, with the least and the greatest."""
    ratios = [mine / other for mine, other in zip(ours, theirs, strict=True)]
    return f"{statistics.median(ratios):.2f} ({min(ratios):.2f}–{max(ratios):.2f})"


def print_speeds(speeds: Mapping[str, Speed]) -> None:
    """Print a table; ratios are to the first side, in the same round."""
    print(
        "| | loaded, s | prefill, tokens/s | times the first | decode, tokens/s | times the first | peak MB "
        "| of these, the model |"
    )
    print("|---|" + "---:|" * 7)
    first = next(iter(speeds.values()))
    for name, speed in speeds.items():
        against = ["", ""]
        if speed is not first:
            against = [ratio(speed.prefill, first.prefill), ratio(speed.decode, first.decode)]
        cells = [
            *(name, f"{speed.loading:.1f}"),
            *(
                f"{statistics.median(speed.prefill):,.0f}",
                against[0],
                f"{statistics.median(speed.decode):,.1f}",
                against[1],
            ),
            *(f"{speed.peak:,.0f}", f"{speed.peak - speed.before:,.0f}"),
        ]
        print("| " + " | ".join(cells) + " |")
