"""The page under real uvicorn, and behind it a stand-in for the API whose answers a test chooses."""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated, Any

import uvicorn
from fastapi import FastAPI, Form, Request, UploadFile
from fastapi.responses import JSONResponse, Response
from pydantic import ConfigDict, Field

from medcode_serving.answers import (
    Evidence,
    ModelIdentity,
    PredictedCode,
    PredictionOptions,
    PredictionResponse,
)
from medcode_serving.api import page

COPD = "Chronic obstructive pulmonary disease, unspecified"
DIALYSIS = "Performance of Urinary Filtration, Intermittent, Less than 6 Hours Per Day"
PHRASES: list[tuple[str, str, str, float, list[str]]] = [
    ("icd10cm", "J44.9", COPD, 0.97, ["chronic obstructive pulmonary disease"]),
    ("icd10cm", "J18.9", "Pneumonia, unspecified organism", 0.95, ["Pneumonia was treated", "infection of the lung"]),
    ("icd10cm", "I10", "Essential (primary) hypertension", 0.93, ["Hypertension"]),
    ("icd10cm", "N17.9", "Acute kidney failure, unspecified", 0.9, ["acute kidney injury", "AKI", "creatinine of 2.1"]),
    ("icd10cm", "E11.9", "Type 2 diabetes mellitus without complications", 0.84, ["type 2 diabetes", "T2DM"]),
    ("icd10cm", "I48.91", "Unspecified atrial fibrillation", 0.78, ["atrial fibrillation", "metoprolol 25 mg"]),
    ("icd10pcs", "5A1D70Z", DIALYSIS, 0.72, ["Hemodialysis"]),
    ("icd10cm", "E86.0", "Dehydration", 0.58, []),
]
"""Codes, most probable first, and what of a note is their evidence; the last is in every answer, without any."""
PDF_PAGES = ["Page one: \U0001f600 AKI.\n", "Page two: Hypertension, and T2DM.\n"]


class PdfForm(PredictionOptions):
    model_config = ConfigDict(extra="forbid")

    file: UploadFile
    include_text: bool = False


class TextRequest(PredictionOptions):
    text: str = Field(min_length=1)


class StubApi:
    """What the next answers look like, and what was asked."""

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        self.key: str | None = None
        self.problem: tuple[int, dict[str, Any], dict[str, str]] | None = None
        self.changes: dict[str, Any] = {}
        """Fields of the answer that are not as usual."""
        self.release = threading.Event()
        """Answers wait for it."""
        self.release.set()
        self.version = "20261120-1"
        self.last_reload: dict[str, Any] | None = None
        self.asked: list[PredictionOptions] = []

    def answer(self, note: str, options: PredictionOptions, **more: Any) -> JSONResponse:
        self.asked.append(options)
        self.release.wait(timeout=300)
        if self.problem:
            status, document, headers = self.problem
            return JSONResponse(document, status, headers, media_type="application/problem+json")
        answer = PredictionResponse(
            codes=_codes(note, options.threshold or 0),
            model=ModelIdentity(recipe=options.recipe or "icd", version=self.version, base_model="embedded"),
            engine="transformers",
            threshold=0.41 if options.threshold is None else options.threshold,
            truncated=False,
            dropped=0,
            evidence_method=options.evidence,
            processing_time_ms=412.7,
        ).model_copy(update=self.changes)
        return JSONResponse(answer.model_dump(mode="json") | more)


def _codes(text: str, threshold: float) -> list[PredictedCode]:
    """The codes with a phrase in the text, and those that never have one, least probable first."""
    codes = []
    for system, code, description, probability, phrases in PHRASES:
        found = [phrase for phrase in phrases if phrase in text]
        if probability >= threshold and (found or not phrases):
            codes.append(
                PredictedCode(
                    system=system,
                    code=code,
                    description=description,
                    probability=probability,
                    confidence=probability**2,
                    support=0.97,
                    evidence=[_evidence(text, phrase, rank) for rank, phrase in enumerate(found)],
                )
            )
    return codes[::-1]


def _evidence(text: str, phrase: str, rank: int) -> Evidence:
    start = text.index(phrase)
    page = None if text != "".join(PDF_PAGES) else 1 if start < len(PDF_PAGES[0]) else 2
    return Evidence(start=start, end=start + len(phrase), text=phrase, score=1 / (1 + 2 * rank), page=page)


def create_stub(api: StubApi) -> FastAPI:
    app = FastAPI()
    app.include_router(page.router)

    @app.middleware("http")
    async def check_key(request: Request, call_next: Any) -> Response:
        needs_key = api.key and not request.url.path.startswith(("/ui", "/health"))
        if needs_key and request.headers.get("Authorization") != f"Bearer {api.key}":
            document = {"type": "urn:medcode:problem:unauthorized", "title": "Unauthorized", "status": 401}
            return JSONResponse(document, 401, media_type="application/problem+json")
        return await call_next(request)

    @app.get("/health")
    def health() -> dict[str, Any]:
        model = {"version": api.version, "pinned": False, "last_reload": api.last_reload}
        return {"status": "ok", "model_loaded": True, "gpu_available": False, "models": {"icd": model}}

    @app.get("/model")
    def model(recipe: str = "icd") -> dict[str, Any]:
        return _card(recipe, api.version)

    @app.post("/predict")
    def predict(request: TextRequest) -> JSONResponse:
        return api.answer(request.text, request)

    @app.post("/predict/pdf")
    def predict_pdf(form: Annotated[PdfForm, Form(media_type="multipart/form-data")]) -> JSONResponse:
        assert form.file.file.read().startswith(b"%PDF")
        text = "".join(PDF_PAGES)
        return api.answer(text, form, pages=len(PDF_PAGES), text=text if form.include_text else None)

    return app


def _card(recipe: str, version: str) -> dict[str, Any]:
    values = {
        "micro_f1": (0.9, 0.785, 0.321),
        "macro_f1": (0.88, 0.739, 0.297),
        "micro_precision": (0.946, 0.676, 0.652),
        "micro_recall": (0.859, 0.935, 0.213),
    }
    metrics = [
        {"name": name, "value": value, "engine": engine, "split": "test", "label_space": "closed"}
        | {"low": value - 0.01, "high": value + 0.01}
        for name, row in values.items()
        for engine, value in zip(("adapter", "linear", "untuned_base"), row, strict=True)
    ]
    return {
        "recipe": recipe,
        "recipes": ["icd"],
        "version": version,
        "created_at": "2026-11-20T11:59:12Z",
        "loaded_at": "2026-11-21T07:30:00Z",
        "base_model": {"id": "embedded", "revision": "7ed6de26f3f1"},
        "data_version": "mimic-iv-3.1",
        "release": "mimic-iv",
        "split_hash": "c18302c047156a69fc0711dd32879ffa",
        "metrics": metrics,
        "threshold": 0.41,
        "engine": "transformers",
    }


@contextmanager
def running(app: FastAPI) -> Iterator[str]:
    """Serve an application from a thread; gives its address."""
    server = uvicorn.Server(uvicorn.Config(app, port=0, log_level="warning", timeout_graceful_shutdown=1))
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        while not server.started:
            assert thread.is_alive(), "uvicorn did not start"
            time.sleep(0.01)
        yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join()
