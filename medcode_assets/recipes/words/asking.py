"""Models asked the questions of a split, through the engine that serving uses; a killed run goes on where it was."""

import json
from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

from medcode_assets.evaluation.text_metrics.likelihood import completion_log_probabilities
from medcode_assets.recipes.words.answers import Answered
from medcode_assets.recipes.words.questions import Asked
from medcode_serving.base_models import LocalModel
from medcode_serving.bundle import DecodingSettings
from medcode_serving.engines.protocol import NoteOptions, Writing
from medcode_serving.engines.words import WordsEngine
from medcode_serving.prompts import PromptTemplate, encode_completions, encode_prompts

GREEDY = Writing()
PART = 64
"""Questions that are answered before what was answered is kept: what a killed run loses."""


def ask_model(
    asked: Sequence[Asked],
    name: str,
    prompt: PromptTemplate,
    base: LocalModel,
    adapter: Path | None,
    decoding: DecodingSettings,
    *,
    device: str,
    batch_size: int,
    writing: Writing = GREEDY,
    parts: Path | None = None,
    on_progress: Callable[[int], None] | None = None,
) -> list[Answered]:
    """Return a model's answers to questions, and the log-probabilities of their options.

    Args:
        asked: The questions.
        name: What the model is called in messages.
        prompt: The recipe's, for this base model.
        base: The base model.
        adapter: What training wrote; None: the base model as it is.
        decoding: Limits of prompt and answer.
        device: auto, cpu, cuda or mps.
        batch_size: Questions in one forward pass.
        writing: How answers are written.
        parts: Folder of answers so far, which belongs to this model and these questions; none: nothing is kept.
        on_progress: Is told how many more questions are answered.

    Raises:
        MedcodeError: the model cannot be loaded, or gives no finite numbers.
    """
    done = _kept(parts)
    if on_progress and done:
        on_progress(sum(map(len, done.values())))
    starts = [start for start in range(0, len(asked), PART) if start not in done]
    if starts:
        engine = WordsEngine(
            name,
            base.path,
            adapter,
            prompt,
            decoding,
            device=device,
            batch_size=batch_size,
            base_revision=base.revision,
        )
        try:
            for start in starts:
                done[start] = _answers(engine, asked[start : start + PART], decoding, writing)
                _keep(parts, start, done[start])
                if on_progress:
                    on_progress(len(done[start]))
        finally:
            engine.close()
    return [answer for start in sorted(done) for answer in done[start]]


def _answers(
    engine: WordsEngine, asked: Sequence[Asked], decoding: DecodingSettings, writing: Writing
) -> list[Answered]:
    questions = [one.question for one in asked]
    predictions = engine.predict(questions, options=[NoteOptions(writing=writing)] * len(asked))
    encoded = encode_prompts(engine.reader.tokenizer, engine.reader.prompt, questions, decoding.max_prompt_tokens)
    prompts = [prompt.input_ids for prompt in encoded]
    choices = [one.options for one in asked]
    options = _log_probabilities(engine, prompts, choices, ends=[_has_prefix(some) for some in choices])
    references = _log_probabilities(engine, prompts, [one.references[:1] for one in asked], ends=[True] * len(asked))
    answers = []
    for prediction, told, (reference,) in zip(predictions, options, references, strict=True):
        written = prediction.written
        assert written is not None  # nobody ends it early
        answers.append(
            Answered(
                written.text,
                written.tokens,
                written.confidence or 0.0,
                written.cut,
                tuple(sum(values) for values in told),
                sum(reference),
                len(reference),
            )
        )
    return answers


def _has_prefix(options: Sequence[str]) -> bool:
    """Whether an option is how another one begins: without its end it could never be the less likely of the two."""
    ordered = sorted(options)
    return any(after.startswith(before) for before, after in pairwise(ordered))


def _log_probabilities(
    engine: WordsEngine, prompts: Sequence[Sequence[int]], texts: Sequence[Sequence[str]], *, ends: Sequence[bool]
) -> list[list[list[float]]]:
    """Return the log-probability of each token of each text as the completion of its prompt.

    Args:
        engine: Whose model.
        prompts: Token ids.
        texts: Some texts a prompt.
        ends: Of each prompt, whether the end of text counts as a token.

    Returns:
        In nats: [prompts][texts][tokens], as many tokens as the model has room for.
    """
    room = engine.context - max(map(len, prompts), default=0) if engine.context else None
    completions = [
        [(ids if end else ids[:-1])[:room] for ids in encode_completions(engine.reader.tokenizer, list(some))]
        for some, end in zip(texts, ends, strict=True)
    ]
    flat = [(prompt, ids) for prompt, some in zip(prompts, completions, strict=True) for ids in some]
    found = iter(
        completion_log_probabilities(
            engine.model, [row[0] for row in flat], [row[1] for row in flat], batch_size=engine.batch_size
        )
    )
    return [[next(found) for _ in some] for some in texts]


def _kept(parts: Path | None) -> dict[int, list[Answered]]:
    """Return answers so far by the number of their first question."""
    found: dict[int, list[Answered]] = {}
    for file in sorted(parts.glob("*.json")) if parts is not None else ():
        rows: list[dict[str, Any]] = json.loads(file.read_text())
        found[int(file.stem)] = [
            Answered(**{**row, "option_log_probabilities": tuple(row["option_log_probabilities"])}) for row in rows
        ]
    return found


def _keep(parts: Path | None, start: int, answers: Sequence[Answered]) -> None:
    if parts is None:
        return
    parts.mkdir(parents=True, exist_ok=True)
    aside = parts / f".{start}"
    aside.write_text(json.dumps([vars(answer) for answer in answers]))
    aside.replace(parts / f"{start}.json")
