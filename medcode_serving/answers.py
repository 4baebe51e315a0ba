"""What is asked for a note and what is answered, in the API and on the command line alike."""

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, StrictBool, model_validator
from pydantic_core import PydanticCustomError

from medcode_serving.engines.protocol import LongNotes
from medcode_serving.safety import SafetyReport

EvidenceMethod = Literal["none", "lexical", "occlusion"]

DISCLAIMER = (
    "Not for clinical use. A language model wrote this answer; it may be wrong or dangerous, and the safety check "
    "knows only its own rules. Ask a clinician; in an emergency, call the emergency number."
)
LARGEST_SEED = 2**53 - 1
"""The largest whole number that every JSON reader keeps as it is."""
MOST_TOKENS = 1_000_000
"""More of an answer cannot be asked for."""


class _Options(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    @model_validator(mode="before")
    @classmethod
    def _has_known_fields(cls, sent: Any) -> Any:
        """Refuse unknown fields with one error: pydantic's own, one for each, could be a hundred thousand."""
        if isinstance(sent, dict) and not sent.keys() <= cls.model_fields.keys():
            known = ", ".join(cls.model_fields)
            raise PydanticCustomError("unknown_field", "unknown field; allowed are: {known}", {"known": known})
        return sent


class PredictionOptions(_Options):
    """How a note is to be answered; what is not given is the settings' or the bundle's own."""

    recipe: str | None = Field(
        default=None, max_length=100, description="Recipe that answers; the first one served if not given."
    )
    threshold: float | None = Field(
        default=None, ge=0, le=1, description="Least probability of a code; the model's own if not given."
    )
    top_k: int | None = Field(default=None, ge=1, le=10_000, description="Codes that the answer has at most.")
    max_codes: int | None = Field(
        default=None, ge=1, le=10_000, description="Codes that the model writes at most; never above its own limit."
    )
    constrained: bool = Field(
        default=True,
        description="Only codes of the vocabulary can be written. False: the model writes freely, its text is parsed, "
        "and what is no code is counted in `dropped`.",
    )
    long_notes: LongNotes = Field(
        default="shorten",
        description="What becomes of a note that is longer than the model reads at once: `shorten` leaves out its "
        "least telling sections, `windows` reads it piece by piece, `refuse` answers with a problem.",
    )
    evidence: EvidenceMethod = Field(
        default="none",
        description="`lexical`: sentences with the code's words and with phrases that the linear model learned for it; "
        "it does not look at what the language model did. `occlusion`: parts of the note without which the language "
        "model finds the code less likely; costs many forward passes.",
    )


class WritingOptions(_Options):
    """How a question is to be answered in words; what is not given is the settings' or the bundle's own."""

    recipe: str | None = Field(
        default=None,
        max_length=100,
        description="Recipe that answers; the first one served that answers in words if not given.",
    )
    temperature: float | None = Field(
        default=None,
        ge=0,
        le=2,
        description="0 takes the likeliest word each time; above, words are drawn, the higher the more freely.",
    )
    max_length: int | None = Field(
        default=None,
        ge=1,
        le=MOST_TOKENS,
        description="Tokens of the answer at most. More than the bundle's or the settings' limit means that limit.",
    )
    length_penalty: float | None = Field(
        default=None,
        ge=-5,
        le=5,
        description="Makes the end likelier with each token written, in nats a token: above 0 answers are shorter, "
        "below 0 longer. An end that is 10 nats behind the likeliest word comes by about token 10 with 1, token 40 "
        "with 0.25, token 100 with 0.1: choose by how long answers are.",
    )
    max_sentences: int | None = Field(
        default=None, ge=1, le=1000, description="Sentences of the answer at most; none is broken off."
    )
    seed: int | None = Field(
        default=None,
        ge=0,
        le=LARGEST_SEED,
        description="Of the draws, with a temperature above 0: the same bundle, question and seed give the same "
        "answer. If not given, one is drawn; the answer tells it.",
    )
    use_safety: StrictBool | None = Field(  # else "no" would switch it off, and "n" be refused
        default=None, description="Whether question and answer are checked for dangers; the settings' if not given."
    )
    long_questions: Literal["shorten", "refuse"] = Field(
        default="shorten",
        description="What becomes of a question that is longer than the model reads: `shorten` cuts it and sets "
        "`truncated`, `refuse` answers with a problem.",
    )


class Evidence(BaseModel):
    """A span of the submitted text that supports a code."""

    start: int = Field(description="First character of the span in the submitted text, counted from 0 in code points.")
    end: int = Field(description="Character behind the span's last.")
    text: str = Field(description="The span.")
    score: float = Field(description="Weight among the spans of this code, in [0, 1]; the strongest first.")
    page: int | None = Field(default=None, description="Page of the PDF that the span begins on, counted from 1.")


class PredictedCode(BaseModel):
    """One code of an answer."""

    system: str = Field(description="icd9cm, icd9pcs, icd10cm, icd10pcs, hcpcs or cpt.", examples=["icd10cm"])
    code: str = Field(description="With its system's dots.", examples=["E11.9"])
    description: str | None = Field(examples=["Type 2 diabetes mellitus without complications"])
    probability: float | None = Field(
        description="In [0, 1], calibrated on the validation split; null where a remote engine tells none.",
        examples=[0.93],
    )
    confidence: float | None = Field(
        default=None, description="The engine's own probability, before calibration.", examples=[0.88]
    )
    support: float | None = Field(
        default=None,
        description="In [0, 1]: how much of the model's probability lay on valid codes while it wrote this one. Low "
        "values say that it wanted to write something else; high ones say nothing of the note.",
        examples=[0.99],
    )
    evidence: list[Evidence] | None = Field(default=None, description="Null if not asked for.")


class ModelIdentity(BaseModel):
    """Which bundle answered."""

    recipe: str = Field(examples=["icd"])
    version: str = Field(examples=["20261120-1"])
    base_model: str = Field(examples=["embedded"])


class Fallback(BaseModel):
    """Why another engine answered than the one that is served."""

    engine: str = Field(description="The engine that should have answered.", examples=["transformers"])
    reason: Literal["timeout", "failed"]


class PredictionResponse(BaseModel):
    """The codes of one note and how they came about."""

    codes: list[PredictedCode] = Field(description="Most probable first.")
    reasoning: str | None = Field(
        default=None,
        description="What the model wrote before the codes, a point a line; null for recipes that do not reason, and "
        "where a baseline answered. It need not be why the code was chosen.",
    )
    model: ModelIdentity
    engine: str = Field(
        description="What predicted: transformers, llamacpp, litellm, linear, untuned_base or frequency_prior.",
        examples=["transformers"],
    )
    fallback: Fallback | None = Field(
        default=None, description="Set if the served engine failed or was too slow and another one answered."
    )
    threshold: float = Field(description="Codes below this probability were left out.", examples=[0.4])
    constrained: bool = Field(
        default=True,
        description="As asked: whether the model could write only codes of the vocabulary. What a remote server writes "
        "is parsed and validated in any case.",
    )
    truncated: bool = Field(
        description="The note was too long and was shortened; its least telling sections were not read."
    )
    sections_cut: list[str] = Field(
        default=[], description="Sections of a shortened note of which something, or all, was not read."
    )
    windows: int = Field(default=1, description="Pieces in which the note was read.")
    dropped: int = Field(description="Fragments of the answer that were no codes of the vocabulary.")
    evidence_method: EvidenceMethod = Field(default="none", description="How the evidence was found.")
    processing_time_ms: float = Field(
        description="Time from the request's arrival in the queue to its answer.", examples=[41.7]
    )


class WrittenResponse(BaseModel):
    """The answer to one question, in words, and how it came about."""

    response: str = Field(description="What the model wrote, as it is: the safety check changes nothing in it.")
    safety_report: SafetyReport | None = Field(
        description="What in question and answer may be dangerous, the most urgent first; null if not checked. No "
        "warning does not mean that an answer is safe."
    )
    inference_time_ms: float = Field(
        description="Time from the request's arrival in the queue to its answer, the safety check included.",
        examples=[812.4],
    )
    model: ModelIdentity
    engine: str = Field(
        description="What wrote: transformers, llamacpp, litellm or untuned_base.", examples=["transformers"]
    )
    confidence: float | None = Field(
        description="Geometric mean of the probabilities of the answer's tokens, in [0, 1]: how sure the model was of "
        "its wording. Not the probability that the answer is right.",
        examples=[0.71],
    )
    tokens: int = Field(description="Length of the answer in tokens of the model.", examples=[96])
    cut: bool = Field(description="The answer reached its limit of tokens and was broken off.")
    truncated: bool = Field(description="The question was too long; a part of it was not read.")
    temperature: float = Field(description="In force for this answer.", examples=[0.0])
    seed: int | None = Field(description="Of the draws; null where none were made (temperature 0).")
    disclaimer: str = DISCLAIMER
