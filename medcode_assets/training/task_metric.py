"""Micro F1 while training: the codes of a few validation notes are predicted as in production, in bounded time.

A falling loss does not say whether the codes become right; this does. It is measured on few notes and is no result:
those come from the evaluation.
"""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from medcode_assets.training.job import CODES, METRIC, TrainingJob
from medcode_assets.training.steps import RowComputer
from medcode_assets.training.token_file import TokenFile

DOCUMENTS_AT_ONCE = 8


def task_metric(job: TrainingJob, folder: Path, computer: RowComputer) -> Callable[[], dict[str, float]] | None:
    """Return the function that measures, or None where there is nothing to measure.

    Only the first process measures. Where the model is shared out over processes nothing is measured: each of them
    would have to write answers of equally many tokens.
    """
    model, world = computer.model, computer.world
    if job.max_codes == 0 or not (folder / METRIC).exists() or world.sharded or not world.first:
        return None
    notes = TokenFile(folder / METRIC)
    if not len(notes):
        return None
    from medcode_serving.codes.vocabulary import Vocabulary
    from medcode_serving.decoding import build_trie
    from medcode_serving.engines.transformers import load_tokenizer

    tokenizer = load_tokenizer(job.base_path)
    trie = build_trie(tokenizer, [code.text for code in Vocabulary.read(folder / CODES).codes])
    training = job.training

    def measure() -> dict[str, float]:
        plain = model.get_base_model() if hasattr(model, "get_base_model") else model
        implementation = plain.config._attn_implementation
        plain.eval()
        plain.set_attn_implementation("sdpa")
        try:
            with computer.autocast():  # an adapter's weights are fp32 whatever the base's are
                return micro_f1(plain, trie, notes, job.max_codes, int(tokenizer.pad_token_id), training.metric_seconds)
        finally:
            plain.set_attn_implementation(implementation)
            model.train()

    return measure


def micro_f1(model: Any, trie: Any, notes: TokenFile, max_codes: int, pad: int, seconds: float) -> dict[str, float]:
    """Return micro F1 of the predicted codes, and over how many notes: as many as the seconds allow, at least a few.

    Args:
        model: In evaluation mode, with an attention that knows a cache.
        trie: The codes.
        notes: Columns prompt_ids and gold (places of codes in the vocabulary; unknown ones are beyond it).
        max_codes: Codes of an answer at most.
        pad: Padding token.
        seconds: After which no other batch of notes is begun.
    """
    from medcode_serving.engines.generation import write_answers

    started = time.monotonic()
    right = predicted = asked = done = 0
    while done < len(notes) and (done == 0 or time.monotonic() - started < seconds):
        batch = [notes[place] for place in range(done, min(done + DOCUMENTS_AT_ONCE, len(notes)))]
        prompts = [note["prompt_ids"].tolist() for note in batch]
        most = max_codes * (trie.longest + 1)
        positions = getattr(model.config, "max_position_embeddings", None)
        if positions is not None:
            most = min(most, positions - max(map(len, prompts)))
        answers = write_answers(model, trie, prompts, max_codes=max_codes, max_tokens=most, pad=pad)
        for note, answer in zip(batch, answers, strict=True):
            codes, gold = {code.index for code in answer}, set(note["gold"].tolist())
            right, predicted, asked = right + len(codes & gold), predicted + len(codes), asked + len(gold)
        done += len(batch)
    return {"micro_f1": 2 * right / max(1, predicted + asked), "micro_f1_notes": float(done)}
