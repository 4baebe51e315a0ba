"""Any text can be checked, and spans are what they say."""

import unicodedata

from hypothesis import given, settings
from hypothesis import strategies as st

from medcode_serving.safety import check_safety

PIECES = st.sampled_from(
    ["warfarin", "Ｉbuprofen", "ibu-\nprofen", "i b u p r o f e n", "5 g", "½ tablet", "every 4-6 hours", "chest pain",
     "1O00 mg/kg", "no", "I'm", "suic\u200bidal", "naproxén", "20 kg", "3 month old", ";", ".", "\n- ", "q6h", "1/0",
     "99999999999999999999 mg", "avoid", "don't", "²", "µg", "x", "mg/5 mL", "10 mL", "٥٠٠ mg", "0 lb child", "e\u0301"]
)  # fmt: skip
TEXTS = st.one_of(st.text(max_size=200), st.lists(PIECES, max_size=25).map(" ".join), st.lists(PIECES).map("".join))


@settings(deadline=None, max_examples=150)
@given(TEXTS, TEXTS)
def test_any_text_can_be_checked_and_spans_lie_in_it(question: str, answer: str) -> None:
    report = check_safety(answer, question=question)
    assert (report.risk_level == "none") == (not report.warnings)
    for warning in report.warnings:
        assert warning.spans
        for span in warning.spans:
            text = question if span.where == "question" else answer
            assert 0 <= span.start < span.end <= len(text)
            assert span.text == text[span.start : span.end]


@settings(deadline=None, max_examples=100)
@given(st.lists(PIECES, max_size=20).map(" ".join))
def test_the_same_in_every_normal_form(text: str) -> None:
    def told(form: str) -> list[tuple[str, str, str]]:
        report = check_safety(unicodedata.normalize(form, text), question="I take warfarin.")
        return [(one.kind, one.rule, one.severity) for one in report.warnings]

    assert told("NFC") == told("NFD")


@settings(deadline=None, max_examples=60)
@given(st.sampled_from(["warfarin", "ibuprofen", "clarithromycin", "metronidazole"]), st.data())
def test_hidden_letters_hide_nothing(name: str, data: st.DataObject) -> None:
    place = data.draw(st.integers(1, len(name) - 1))
    hidden = (
        name[:place] + data.draw(st.sampled_from(["\u200b", "\u00ad", "\u200d", "\ufeff", "\u0301"])) + name[place:]
    )
    partner = "lithium" if name == "ibuprofen" else "warfarin" if name != "warfarin" else "aspirin"
    written = hidden.upper() if data.draw(st.booleans()) else hidden
    assert check_safety(f"Take {written}.", question=f"I take {partner}.").risk_level in {"moderate", "high"}
