"""What an exported file is compared with: the merged model in transformers, fp32."""

from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from medcode_assets.export.prompting import joined_tokens, opening_token, training_tokens
from medcode_serving.engines.transformers import load_tokenizer
from medcode_serving.prompts import PromptTemplate

if TYPE_CHECKING:
    import numpy as np


class LanguageModel(Protocol):
    """What verification asks of a model, whichever program runs it."""

    def tokenize(self, text: str) -> list[int]:
        """Return the token ids of a text, with the special tokens that the tokenizer adds.

        Special tokens in the text stay text: a note could inject a turn.
        """
        ...

    def greedy(self, prompt: list[int], new_tokens: int) -> list[int]:
        """Return the greedy continuation, at most `new_tokens` long, its end-of-text token included."""
        ...

    def log_probabilities(self, tokens: list[int], positions: list[int]) -> "np.ndarray":
        """Return natural log-probabilities [positions, vocabulary] of the token after each position.

        NaN marks a token whose probability the program does not tell; the unlikeliest ones only.
        """
        ...


class TransformersModel:
    """A causal language model's folder in transformers, fp32 on the CPU.

    It remembers what it was asked: one model is held against several files, and its answers take the longest.
    """

    def __init__(self, folder: Path) -> None:
        import torch
        from transformers import AutoModelForCausalLM

        self._greedy: dict[tuple[int, ...], list[int]] = {}
        self._rows: dict[tuple[tuple[int, ...], tuple[int, ...]], np.ndarray] = {}
        self._tokenizer = load_tokenizer(folder)
        self._model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, local_files_only=True).eval()

    @property
    def context_length(self) -> int:
        """Tokens that the model can hold at once."""
        return int(self._model.config.max_position_embeddings)

    def tokenize(self, text: str) -> list[int]:
        """See `LanguageModel.tokenize`."""
        ids: list[int] = self._tokenizer(text, split_special_tokens=True)["input_ids"]
        return ids

    @property
    def opening(self) -> str:
        """Text of the token that begins every text; empty: none does."""
        return opening_token(self._tokenizer)

    def prompt_tokens(self, text: str, prompt: PromptTemplate | None) -> list[int]:
        """Return the token ids of a rendered prompt as training has them."""
        return training_tokens(self._tokenizer, text, prompt)

    def chat_tokens(self, note: str, prompt: PromptTemplate) -> list[int]:
        """Return the token ids that a chat about a note must have, its special tokens read as such."""
        return joined_tokens(self._tokenizer, prompt, note)

    def greedy(self, prompt: list[int], new_tokens: int) -> list[int]:
        """See `LanguageModel.greedy`; always of the same `new_tokens`."""
        key = tuple(prompt)
        if key not in self._greedy:
            self._greedy[key] = self._continue(prompt, new_tokens)
        return self._greedy[key]

    def _continue(self, prompt: list[int], new_tokens: int) -> list[int]:
        import torch
        from transformers import GenerationConfig

        eos = self._tokenizer.eos_token_id
        settings = GenerationConfig(max_new_tokens=new_tokens, do_sample=False, eos_token_id=eos, pad_token_id=eos)
        ids = torch.tensor([prompt])
        with torch.inference_mode():
            answer = self._model.generate(ids, attention_mask=torch.ones_like(ids), generation_config=settings)
        continuation: list[int] = answer[0, len(prompt) :].tolist()
        return continuation

    def log_probabilities(self, tokens: list[int], positions: list[int]) -> "np.ndarray":
        """See `LanguageModel.log_probabilities`."""
        key = tuple(tokens), tuple(positions)
        if key not in self._rows:
            self._rows[key] = self._log_softmax(tokens, positions)
        return self._rows[key]

    def _log_softmax(self, tokens: list[int], positions: list[int]) -> "np.ndarray":
        import torch

        with torch.inference_mode():
            logits = self._model(torch.tensor([tokens]), logits_to_keep=torch.tensor(positions)).logits[0]
        return torch.log_softmax(logits.double(), dim=-1).numpy()
