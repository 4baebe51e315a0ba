"""A base model with an adapter, on this machine, writing constrained answers.

Precision: float32 on the CPU and on MPS, bfloat16 on CUDA. In float32 the adapter is merged into the weights, which
saves a seventh of the time; in bfloat16 it stays beside them, because rounding would swallow its small updates.
"""

import inspect
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medcode_serving.adapters import load_adapted_model
from medcode_serving.bundle import DecodingSettings
from medcode_serving.codes.vocabulary import Vocabulary
from medcode_serving.decoding import CodeTrie, DecodedCode, GreedyAnswers, build_trie
from medcode_serving.device import resolve_device
from medcode_serving.engines.protocol import Prediction, ScoredCode
from medcode_serving.errors import MedcodeError
from medcode_serving.prompts import EncodedPrompt, PromptTemplate, encode_prompts

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedTokenizerBase


class TransformersEngine:
    """Greedy, constrained generation in batches of notes of similar length.

    A code's probability is its confidence as `DecodedCode` defines it. Not safe for use by two threads at once.
    """

    def __init__(
        self,
        name: str,
        model_path: Path,
        adapter: Path | None,
        vocabulary: Vocabulary,
        prompt: PromptTemplate,
        decoding: DecodingSettings,
        *,
        device: str = "auto",
        batch_size: int = 16,
        dtype: str | None = None,
        base_revision: str | None = None,
    ) -> None:
        """Load the model.

        Args:
            name: What predictions and metrics call this engine.
            model_path: Folder of the base model: config.json, safetensors, tokenizer.
            adapter: Folder that training wrote (`medcode_serving.adapters`); None for the untuned base.
            vocabulary: The codes that can be predicted.
            prompt: The words around a note, as in training.
            decoding: Limits of prompt and answer.
            device: auto, cpu, cuda or mps.
            batch_size: Notes in one forward pass.
            dtype: float32, bfloat16 or float16; None takes the device's default.
            base_revision: Revision of the base model, which the adapter must name if it names one; None: not known.

        Raises:
            MedcodeError: model, adapter, tokenizer, device and limits do not fit together, or are not to be had.
        """
        import torch

        self.name = name
        self.device = resolve_device(device)
        self.batch_size = batch_size
        self._vocabulary = vocabulary
        self._prompt = prompt
        self._decoding = decoding
        precision = dtype or ("bfloat16" if self.device == "cuda" else "float32")
        self._tokenizer = load_tokenizer(model_path)
        self._trie = build_trie(self._tokenizer, [code.text for code in vocabulary.codes])
        self._max_answer_tokens = decoding.max_codes * (self._trie.longest + 1)
        model = load_adapted_model(
            model_path, adapter, dtype=precision, merge=precision == "float32", base_revision=base_revision
        )
        self._model = model.to(torch.device(self.device)).eval()  # type: ignore[arg-type]
        self._check_limits()

    def _check_limits(self) -> None:
        frame = self._tokenizer(self._prompt.render(""))["input_ids"]
        if len(frame) >= self._decoding.max_prompt_tokens:
            raise MedcodeError(
                f"max_prompt_tokens {self._decoding.max_prompt_tokens} leaves no room for a note; raise it"
            )
        context = getattr(self._model.config, "max_position_embeddings", None)
        if context is not None:
            room = context - self._decoding.max_prompt_tokens
            if room < self._trie.longest + 1:
                raise MedcodeError(
                    f"max_prompt_tokens {self._decoding.max_prompt_tokens} leaves {room} of the model's {context} "
                    f"tokens for the answer and a code needs {self._trie.longest + 1}; lower it"
                )
            self._max_answer_tokens = min(self._max_answer_tokens, room)

    def predict(self, notes: Sequence[str], *, on_progress: Callable[[int], None] | None = None) -> list[Prediction]:
        """Return the codes of each note in the order that the model wrote them.

        Raises:
            MedcodeError: the model gives no finite numbers.
        """
        prompts = encode_prompts(self._tokenizer, self._prompt, list(notes), self._decoding.max_prompt_tokens)
        # Longest first: little padding, and what does not fit into memory fails at once.
        order = sorted(range(len(prompts)), key=lambda place: -len(prompts[place].input_ids))
        predictions: dict[int, Prediction] = {}
        for start in range(0, len(order), self.batch_size):
            places = order[start : start + self.batch_size]
            answers = self._answer([prompts[place].input_ids for place in places])
            for place, answer in zip(places, answers, strict=True):
                predictions[place] = self._prediction(prompts[place], answer)
            if on_progress:
                on_progress(len(places))
        return [predictions[place] for place in range(len(prompts))]

    def _prediction(self, prompt: EncodedPrompt, answer: list[DecodedCode]) -> Prediction:
        rows = [(self._vocabulary.codes[decoded.index], decoded.confidence) for decoded in answer]
        return Prediction(
            codes=tuple(ScoredCode(row.system, row.code, row.description, confidence) for row, confidence in rows),
            truncated=prompt.truncated,
        )

    def _answer(self, prompts: list[list[int]]) -> list[list[DecodedCode]]:
        return write_answers(
            self._model,
            self._trie,
            prompts,
            max_codes=self._decoding.max_codes,
            max_tokens=self._max_answer_tokens,
            pad=self._tokenizer.pad_token_id,
        )


def write_answers(
    model: Any, trie: CodeTrie, prompts: list[list[int]], *, max_codes: int, max_tokens: int, pad: int
) -> list[list[DecodedCode]]:
    """Write the answers of one batch, greedily and constrained to the trie's codes.

    A row that ended leaves the batch at once.

    Args:
        model: A causal language model in evaluation mode.
        trie: The codes.
        prompts: Token ids of each prompt.
        max_codes: Codes of an answer at most.
        max_tokens: Tokens of an answer at most.
        pad: Token that fills shorter prompts up.
    """
    import torch

    device = model.device
    options = {"logits_to_keep": 1} if "logits_to_keep" in inspect.signature(model.forward).parameters else {}
    answers = GreedyAnswers(trie, len(prompts), max_codes=max_codes, max_tokens=max_tokens)
    with torch.inference_mode():
        ids, mask = _pad_left(prompts, pad)
        ids, mask = ids.to(device), mask.to(device)
        cache = None
        while True:
            output = model(
                input_ids=ids,
                attention_mask=mask,
                position_ids=(mask.cumsum(-1) - 1).clamp(min=0)[:, -ids.shape[1] :],
                past_key_values=cache,
                use_cache=True,
                **options,
            )
            cache = output.past_key_values
            rows, tokens = (torch.from_numpy(array).to(device) for array in answers.choices())
            logits = output.logits[:, -1][rows, tokens].double().cpu().numpy()
            going_on, written = answers.choose(logits)
            if not len(going_on):
                return answers.answers
            if len(going_on) < len(mask):
                kept = torch.from_numpy(going_on).to(device)
                cache.batch_select_indices(kept)
                mask = mask[kept]
            # Rows write one to a few tokens a step; the mask hides the gaps in front of the shorter ones.
            block = torch.from_numpy(written).to(device)
            mask = torch.cat([mask, (block >= 0).to(mask.dtype)], dim=1)
            ids = block.clamp(min=0)


def _pad_left(prompts: list[list[int]], pad: int) -> tuple["torch.Tensor", "torch.Tensor"]:
    """Return token ids and attention mask, both [prompts, longest prompt]."""
    import torch

    longest = max(map(len, prompts))
    ids = torch.tensor([[pad] * (longest - len(prompt)) + prompt for prompt in prompts])
    mask = torch.tensor([[0] * (longest - len(prompt)) + [1] * len(prompt) for prompt in prompts])
    return ids, mask


def load_tokenizer(model_path: Path) -> "PreTrainedTokenizerBase":
    """Load a local model's tokenizer; one without a padding token pads with its end-of-text token.

    Raises:
        MedcodeError: the folder holds no tokenizer.
    """
    from transformers import AutoTokenizer

    try:
        tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(
            model_path, local_files_only=True, trust_remote_code=False
        )
    except (OSError, ValueError) as error:
        raise MedcodeError(
            f"{model_path}: no tokenizer that transformers can load ({type(error).__name__}); "
            "the folder needs tokenizer.json and tokenizer_config.json"
        ) from error
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer
