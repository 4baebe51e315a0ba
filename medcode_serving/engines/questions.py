"""What engines that answer in words do around the model: questions become prompts, answers become predictions."""

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from medcode_serving.bundle import DecodingSettings
from medcode_serving.engines.protocol import DEFAULT_OPTIONS, NoteOptions, Prediction, WrittenAnswer
from medcode_serving.engines.reading import Piece
from medcode_serving.errors import MedcodeError
from medcode_serving.prompts import FramedTokenizer, PromptTemplate, encode_prompts
from medcode_serving.reasoned import without_thought

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


class QuestionReader:
    """Turns questions into prompts that fit the model, and what the model wrote into one prediction a question."""

    def __init__(
        self, tokenizer: "PreTrainedTokenizerBase", prompt: PromptTemplate, decoding: DecodingSettings
    ) -> None:
        """Take what the bundle says."""
        self.tokenizer = tokenizer
        self.prompt = prompt
        self.framed = FramedTokenizer(tokenizer, prompt)
        self._decoding = decoding

    def answer_tokens(self, context: int | None) -> int:
        """Return how many tokens an answer may have beside the longest prompt.

        Args:
            context: Tokens of prompt and answer together that the model can hold; None: it does not say.

        Raises:
            MedcodeError: the limits leave no room for a question, or none for an answer.
        """
        limit, wanted = self._decoding.max_prompt_tokens, self._decoding.max_answer_tokens
        if self.framed.fixed_tokens >= limit:
            raise MedcodeError(f"max_prompt_tokens {limit} leaves no room for a question; raise it")
        room = wanted if context is None else min(wanted, context - limit)
        if room < 1:
            raise MedcodeError(f"max_prompt_tokens {limit} leaves no room for an answer in {context} tokens; lower it")
        return room

    def pieces(
        self, questions: Sequence[str], options: Sequence[NoteOptions] | None
    ) -> tuple[list[Prediction], list[Piece]]:
        """Return a prediction a question, all `too_long`, and the prompts of those that are not.

        A question that is too long is shortened as notes are; with `long_notes` other than `shorten` it is refused,
        for windows of a question are no questions.
        """
        chosen = options or [DEFAULT_OPTIONS] * len(questions)
        prompts = encode_prompts(self.tokenizer, self.prompt, list(questions), self._decoding.max_prompt_tokens)
        pieces = [
            Piece(place, place, prompt.input_ids, option, prompt.truncated, prompt.cut)
            for place, (prompt, option) in enumerate(zip(prompts, chosen, strict=True))
            if not prompt.truncated or option.long_notes == "shorten"
        ]
        return [Prediction((), outcome="too_long")] * len(questions), pieces

    def decode(self, tokens: list[int]) -> str:
        """Return the text of an answer's tokens."""
        return str(self.tokenizer.decode(tokens, skip_special_tokens=True))


def answered(piece: Piece, answer: WrittenAnswer) -> Prediction:
    """Return the prediction of a question that was answered; its thoughts are no part of the answer's text."""
    said = replace(answer, text=without_thought(answer.text))
    return Prediction((), written=said, truncated=piece.truncated, sections_cut=piece.sections_cut)
