"""Made exam questions for the tests of recipe `medqa`."""

from typing import Any

from medcode_assets.recipes.medqa.rows import ExamRow

DRUGS = ("metformin", "warfarin", "aspirin", "insulin")


def record(number: int = 0, *, cop: int | None = 1, **changed: Any) -> dict[str, Any]:
    """A row as MedMCQA's JSON files have it."""
    return {
        "id": f"id-{number}",
        "question": f"Which drug is given first in made up illness number {number}?",
        **dict(zip(("opa", "opb", "opc", "opd"), DRUGS, strict=True)),
        "cop": cop,
        "exp": None,
        "subject_name": "Pharmacology" if number % 3 else "Medicine",
        "topic_name": None,
        "choice_type": "single",
        **changed,
    }


def row(
    question: str = "Which drug lowers glucose in this made up case?",
    options: tuple[str, ...] = DRUGS,
    cop: int | None = 0,
    *,
    split: str | None = None,
    subject: str = "Medicine",
    answer: str = "",
    explanation: str = "",
    withheld: bool = False,
) -> ExamRow:
    return ExamRow(question, options, cop, answer, explanation, subject, split, "made", "row 1", withheld)
