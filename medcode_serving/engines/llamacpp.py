"""A bundle's GGUF file in llama.cpp, on this machine, writing constrained answers.

llama.cpp's own way to hold a model to a language, a grammar, cannot forbid that a code comes twice, and says nothing of
how sure the model was. So the server is asked for one decision after the other, over the same trie of codes that
`TransformersEngine` uses: same answers, same probabilities, up to what the number format loses. Reasoning before them
is written freely, piece by piece.
"""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np

from medcode_serving.bundle import DecodingSettings
from medcode_serving.codes.vocabulary import Vocabulary
from medcode_serving.decoding import GreedyAnswers
from medcode_serving.decoding.trie import Floats, Ints
from medcode_serving.engines.llamacpp_slots import LlamaCppSlots, told_tokens
from medcode_serving.engines.protocol import NoteOptions, Prediction
from medcode_serving.engines.reading import NoteReader, Piece, Thought
from medcode_serving.engines.transformers import load_tokenizer
from medcode_serving.prompts import PromptTemplate

TOLD_TOKENS = 64
"""Likeliest tokens whose probabilities a request asks for; 512 would take 7 ms more a decision."""
UNTOLD_SHARE = 1e-3
"""So much of what is allowed may lie on tokens that were not told; else they are asked for."""
THOUGHT_AT_ONCE = 16
"""Tokens of reasoning that one request asks for: its closing tag, which is no text, ends no request by itself."""

_ALLOWED_BIAS = 250.0
"""Lifts the allowed tokens above all others, so that the server writes the likeliest of them. A greater one would round
their logits, which are in f32."""
_TINY = 1e-30


class LlamaCppEngine:
    """Answers `slots` notes side by side, each decision by one request; safe for use by one thread at a time."""

    name = "llamacpp"

    def __init__(
        self,
        file: Path,
        tokenizer: Path,
        vocabulary: Vocabulary,
        prompt: PromptTemplate,
        decoding: DecodingSettings,
        *,
        slots: int = 4,
        threads: int | None = None,
        gpu_layers: int = 0,
        trie_folders: Sequence[Path] = (),
    ) -> None:
        """Load the model.

        Args:
            file: The GGUF file.
            tokenizer: Folder of the base model's tokenizer.
            vocabulary: The codes that can be predicted.
            prompt: The words around a note, as in training.
            decoding: Limits of prompt and answer.
            slots: Notes that are answered side by side.
            threads: CPU threads; None: as many as torch takes.
            gpu_layers: Layers that a GPU holds.
            trie_folders: Where tries are kept (`cached_trie`).

        Raises:
            MedcodeError: the extra `llamacpp` is not installed, llama.cpp does not load the file, or file, tokenizer
                and limits do not fit together.
        """
        self.file = file
        self._reader = reader = NoteReader(load_tokenizer(tokenizer), vocabulary, prompt, decoding, trie_folders)
        self._slots = LlamaCppSlots(
            file,
            tokenizer,
            reader.tokenizer,
            prompt,
            max_prompt_tokens=decoding.max_prompt_tokens,
            answer_tokens=reader.answer_tokens,
            slots=slots,
            threads=threads,
            gpu_layers=gpu_layers,
        )

    def predict(
        self,
        notes: Sequence[str],
        *,
        options: Sequence[NoteOptions] | None = None,
        on_progress: Callable[[int], None] | None = None,
    ) -> list[Prediction]:
        """Return the codes of each note in the order that the model wrote them; those of windows by probability.

        Raises:
            MedcodeError: llama.cpp gives no answer, or the model no finite numbers.
        """
        self._slots.refuse_closed()
        return self._reader.predict(notes, options, self._answers, on_progress)

    def close(self) -> None:
        """Give up the model; notes that are waiting for a slot end in an error."""
        self._slots.close()

    def _answers(self, pieces: Sequence[Piece]) -> Iterator[tuple[Piece, Prediction]]:
        return self._slots.answers(pieces, self._answer)

    def _answer(self, piece: Piece, slot: int) -> Prediction:
        return (self._constrained if piece.options.constrained else self._free)(piece, slot)

    def _constrained(self, piece: Piece, slot: int) -> Prediction:
        limit = self._reader.limit(piece.options)
        answers = GreedyAnswers(self._reader.trie, 1, max_codes=limit, max_tokens=self._slots.max_answer_tokens)
        tokens, thought = piece.prompt, None
        if self._reader.thinks:
            thought = self._think(piece, slot)
            thinking = self._reader.thinking
            tokens = [*tokens, *thinking.begin, *thought.tokens, *thinking.close]
        while not piece.options.ended():
            _, allowed = answers.choices()
            going_on, written = answers.choose(self._log_probabilities(tokens, allowed, slot), np.zeros(1))
            if not len(going_on):
                return self._reader.scored(answers.answers[0], thought)
            tokens = tokens + written[0].tolist()
        return Prediction((), outcome="ended")

    def _think(self, piece: Piece, slot: int) -> Thought:
        """Let the model reason until it closes its reasoning, ends the text, or has no more room."""
        thinking, most = self._reader.thinking, self._reader.reasoning_tokens
        opened = [*piece.prompt, *thinking.begin]
        written: list[int] = []
        while len(written) < most and not piece.options.ended():
            wanted = min(THOUGHT_AT_ONCE, most - len(written))
            answer = self._slots.complete([*opened, *written], wanted, slot)
            tokens: list[int] = answer["tokens"]
            if thinking.end in tokens:
                return self._reader.thought([*written, *tokens[: tokens.index(thinking.end)]])
            if answer["stop_type"] != "limit":
                return self._reader.thought([*written, *tokens[:-1]])
            written += tokens
        return self._reader.thought(written)

    def _log_probabilities(self, tokens: list[int], allowed: Ints, slot: int) -> Floats:
        """Return how likely each allowed token is to come next, of all tokens."""
        bias = [[token, _ALLOWED_BIAS] for token in allowed.tolist()]
        answer = self._slots.complete(tokens, 1, slot, n_probs=TOLD_TOKENS, logit_bias=bias)
        written = answer["completion_probabilities"][0]  # told before any bias
        told = {entry["id"]: entry["logprob"] for entry in [*written["top_logprobs"], written]}
        values = np.array([told.get(token, -np.inf) for token in allowed.tolist()])
        untold = np.isinf(values).sum() * np.exp(min(entry["logprob"] for entry in written["top_logprobs"]))
        if untold > UNTOLD_SHARE * np.exp(values).sum():
            shares = self._shares(tokens, bias, slot)
            best = np.log(shares[written["id"]])
            values = np.array([np.log(shares.get(token, 0.0) or _TINY) for token in allowed.tolist()])
            return values - best + written["logprob"]
        return np.maximum(values, np.log(_TINY))

    def _shares(self, tokens: list[int], bias: list[list[float]], slot: int) -> dict[int, float]:
        """Return the probabilities of the allowed tokens, of these alone."""
        answer = self._slots.complete(
            tokens,
            1,
            slot,
            n_probs=len(bias),
            logit_bias=bias,
            post_sampling_probs=True,
            samplers=["temperature"],
            temperature=1.0,
        )
        return {entry["id"]: entry["prob"] for entry in answer["completion_probabilities"][0]["top_probs"]}

    def _free(self, piece: Piece, slot: int) -> Prediction:
        """Answer without constraint; a note that ended since is still written to its end."""
        if piece.options.ended():
            return Prediction((), outcome="ended")
        answer = self._slots.complete(piece.prompt, self._slots.max_answer_tokens, slot, n_probs=1)
        told, cut = told_tokens(answer), answer["stop_type"] == "limit"
        if not cut:
            told = told[:-1]
        tokens, values = [token for token, _ in told], [value for _, value in told]
        return self._reader.parsed(tokens, values, self._reader.limit(piece.options), cut=cut)
