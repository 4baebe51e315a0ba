"""A base model's chat template as a prompt template: rendered once, so that serving needs no template engine."""

from functools import lru_cache
from pathlib import Path
from typing import Any

from medcode_serving.errors import MedcodeError
from medcode_serving.prompts import AnswerForm, PromptTemplate
from medcode_serving.reasoned import THINK

NOTE = "{note}"
PLAIN = ("{system}\n\n{asked}: {note}", "\n\nAnswer:\n")
"""The words around a note where a base model has no chat template."""


@lru_cache(maxsize=8)
def chat_prompt(model: Path, system: str, answer: AnswerForm) -> PromptTemplate:
    """Return the prompt that gives a model a system message and a note, in the model's own chat template.

    Args:
        model: Folder of the base model.
        system: The system message; before the note where the template knows no system role.
        answer: How the completion looks.

    Raises:
        MedcodeError: the folder holds no tokenizer, or its template changes or loses the note.
    """
    from medcode_serving.engines.transformers import load_tokenizer

    tokenizer: Any = load_tokenizer(model)
    if not tokenizer.chat_template:
        instruction, header = PLAIN
        if answer == "words":  # all text: any program that gets it whole sees the tokens of training
            plain = instruction.replace("{system}", system).replace("{asked}", "Question")
            return PromptTemplate(
                instruction=plain,
                answer_header=header,
                answer=answer,
                messages=(("system", system), ("user", NOTE)),
            )
        # A chat template writes it out; here, nothing else would.
        opening = tokenizer.bos_token if tokenizer("")["input_ids"][:1] == [tokenizer.bos_token_id] else ""
        return PromptTemplate(
            instruction=opening + instruction.replace("{system}", system).replace("{asked}", "Narrative"),
            answer_header=header,
            markup=True,
            answer=answer,
            messages=(("system", system), ("user", NOTE)),
        )
    rendered, messages = _rendered(tokenizer, system)
    before, found, after = rendered.partition(NOTE)
    if not found or NOTE in after:
        raise MedcodeError(f"{model}: its chat template does not hold the user's message once, as it is; take another")
    # Some templates open the reasoning themselves, and completions do.
    header = after.rstrip().removesuffix(THINK) if after.rstrip().endswith(THINK) else after
    return PromptTemplate(
        instruction=before + NOTE,
        answer_header=header,
        markup=True,
        answer=answer,
        messages=tuple((message["role"], message["content"]) for message in messages),
    )


def _rendered(tokenizer: Any, system: str) -> tuple[str, list[dict[str, str]]]:
    """Return a chat in the tokenizer's template, and its messages."""
    from jinja2 import TemplateError

    note = {"role": "user", "content": NOTE}
    try:
        with_system = [{"role": "system", "content": system}, note]
        rendered = str(tokenizer.apply_chat_template(with_system, tokenize=False, add_generation_prompt=True))
        if system in rendered:
            return rendered, with_system
    except TemplateError:
        pass  # Gemma's, for one, raises on a system message
    note["content"] = f"{system}\n\n{NOTE}"
    return str(tokenizer.apply_chat_template([note], tokenize=False, add_generation_prompt=True)), [note]
