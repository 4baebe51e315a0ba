"""What a bundle's GGUF files are verified on, out of the warehouse of its MIMIC version."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from medcode_assets.export.validation import ValidationSample
from medcode_assets.mimic.transform import split_hash
from medcode_assets.recipes.answering import labelled_notes
from medcode_assets.recipes.words.questions import asked_questions, question_split_hash
from medcode_serving.base_models import LocalModel
from medcode_serving.bundle import Bundle
from medcode_serving.engines.transformers import load_tokenizer
from medcode_serving.prompts import encode_prompts

if TYPE_CHECKING:
    import duckdb

UNMEASURED = ", and micro F1 is not measured"
"""Where answers are codes."""
SPLIT_CHANGED = (
    "the warehouse has another split than the bundle was trained on: its GGUF files are verified on invented text"
)


def validation_sample(
    con: "duckdb.DuckDBPyConnection", bundle: Bundle, base: LocalModel, *, prompts: int, f1_notes: int
) -> ValidationSample | None:
    """Return some validation examples, the same ones each time; None if the split is not the bundle's any more.

    Args:
        con: The warehouse of the bundle's MIMIC version.
        bundle: Whose recipe, prompt and limits.
        base: Its base model.
        prompts: How many are rendered, shortened as in training.
        f1_notes: How many come with their codes; 0, or without codes: none.
    """
    manifest = bundle.manifest
    if manifest.answers_in_words:
        if question_split_hash(con, manifest.recipe) != manifest.data.split_hash:
            return None
        notes: Sequence[str] = [one.question for one in asked_questions(con, manifest.recipe, "validation", prompts)]
    elif split_hash(con) != manifest.data.split_hash:
        return None
    else:
        notes = labelled_notes(con, manifest.recipe, "validation", prompts).notes
    tokenizer = load_tokenizer(base.path)
    encoded = encode_prompts(tokenizer, manifest.prompt, list(notes), manifest.decoding.max_prompt_tokens)
    return ValidationSample(
        tuple(
            str(tokenizer.decode(prompt.input_ids, skip_special_tokens=not manifest.prompt.markup))
            for prompt in encoded
        ),
        labelled_notes(con, manifest.recipe, "validation", f1_notes)
        if f1_notes and not manifest.answers_in_words
        else None,
    )
