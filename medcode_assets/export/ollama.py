"""Ollama's Modelfile."""

from collections.abc import Sequence

from medcode_assets.export.templates import fill
from medcode_serving.errors import MedcodeError
from medcode_serving.prompts import PromptTemplate

# `.Messages` and not `.Prompt`: with that, Ollama writes one prompt after the other, one for each turn of the chat.
_NOTE = '{{ $note := "" }}{{ range .Messages }}{{ if eq .Role "user" }}{{ $note = .Content }}{{ end }}{{ end }}'


def ollama_modelfile(
    files: Sequence[str],
    prompt: PromptTemplate,
    *,
    recipe: str,
    version: str,
    prompt_tokens: int,
    answer_tokens: int,
    end: str,
    license: str,
    begin: str = "",
) -> str:
    """Return the Modelfile for the first of a folder's GGUF files; the others are named in a comment.

    Its template renders `PromptTemplate.render` of a chat's last user message, but for NFC and white space around the
    note: Ollama's templates can change neither.

    Args:
        files: Names of the folder's GGUF files, that which Ollama shall take first.
        prompt: The prompt of training.
        recipe: The bundle's.
        version: The bundle's.
        prompt_tokens: Tokens of a prompt at most.
        answer_tokens: Tokens of an answer at most.
        end: Text of the end-of-text token.
        license: The base model's.
        begin: Text of the token that its tokenizer begins every text with; Ollama adds it, so the template must not.

    Raises:
        MedcodeError: a text that a Modelfile cannot hold.
    """
    for text in (*files, end, license):
        if '"' in text or not text.isprintable():
            raise MedcodeError(f"{text!r}: a Modelfile cannot hold it; rename it without quotes and control characters")
    pieces = [_text(piece) for piece in prompt.instruction.removeprefix(begin).split("{note}")]
    return fill(
        "Modelfile.jinja",
        model=f"medcode-{recipe}-{version}",
        name=f"medcode-{recipe}",
        file=files[0],
        others=files[1:],
        template=_NOTE + "{{ $note }}".join(pieces) + _text(prompt.answer_header),
        prompt_tokens=prompt_tokens,
        answer_tokens=answer_tokens,
        end=end,
        license=license,
        words=prompt.answer == "words",
    )


def _text(text: str) -> str:
    r"""Return a text of a Go template: as it is, or as a Go string if it holds what means something there or here.

    A brace could open an action and three quotes would end the template; Ollama's parser (parser/parser.go) drops
    characters that Go does not call printable, but \n.
    """
    if not set('"{').intersection(text) and text.replace("\n", "").isprintable():
        return text
    return '{{ "' + "".join(_in_go(character) for character in text) + '" }}'


def _in_go(character: str) -> str:
    if character in '"\\':
        return "\\" + character
    return character if character.isprintable() else f"\\U{ord(character):08x}"
