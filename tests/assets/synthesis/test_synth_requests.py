from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from medcode_assets.synthesis.requests import Inquiry, ListedCode, read_codes, read_prompts
from medcode_serving.errors import MedcodeError

CODES = (ListedCode("icd10cm", "I10", "Essential (primary) hypertension", 3.0), ListedCode("cpt", "99213", None, 1.0))


@given(
    stage=st.sampled_from([1, 2, 3]), seed=st.integers(0, 9), number=st.integers(0, 10**6), attempt=st.integers(0, 2)
)
def test_a_request_is_a_function_of_its_number(stage: int, seed: int, number: int, attempt: int) -> None:
    request = Inquiry(stage, seed, CODES).request(number, attempt)
    assert request == Inquiry(stage, seed, list(CODES)).request(number, attempt)
    assert request != Inquiry(stage, seed + 1, CODES).request(number, attempt)
    assert request.seed != Inquiry(stage, seed, CODES).request(number, attempt + 1).seed
    text = request.messages[1]["content"]
    assert request.code is not None
    assert f'"code": "{request.code.code}"' in text
    assert "$" not in text
    assert ("rejected_code" in text) == (stage == 3)
    assert ('"reasoning"' in text) == (stage > 1)


def test_codes_are_drawn_by_weight() -> None:
    inquiry = Inquiry(1, 0, CODES)
    drawn = Counter(request.code.code for number in range(2000) if (request := inquiry.request(number, 0)).code)
    assert drawn["I10"] == pytest.approx(1500, abs=4 * (2000 * 0.75 * 0.25) ** 0.5)


def test_what_is_asked_varies() -> None:
    inquiry = Inquiry(2, 0, CODES[:1])
    assert len({inquiry.request(number, 0).messages[1]["content"] for number in range(300)}) > 290


def test_a_given_narrative_is_sent_as_it_is() -> None:
    narrative = "Costs $narrative and $code; {braces} stay."
    request = Inquiry(2, 0, (), (narrative,)).request(0, 0)
    assert request.code is None
    assert request.narrative == narrative
    assert narrative in request.messages[1]["content"]


def test_prompts_cover_all_stages() -> None:
    prompts = read_prompts()
    for stages in (prompts.max_tokens, prompts.explained, *prompts.answer.values()):
        assert set(stages) == {1, 2, 3}


def test_a_list_of_codes_is_read(tmp_path: Path) -> None:
    path = tmp_path / "codes.csv"
    path.write_text('system,code,description,weight\nICD10,e119,"Type 2, plain",2\nhcpcs,E0130,,\n')
    assert read_codes(path) == [
        ListedCode("icd10cm", "E11.9", "Type 2, plain", 2.0),
        ListedCode("hcpcs", "E0130", None, 1.0),
    ]


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("code,description\nI10,x\n", "no column system"),
        ("system,code,description\n", "lists no code"),
        ("system,code,description\nicd10,I10,x\nsnomed,1,x\n", "line 3: unknown system"),
        ("system,code,description\nICD10,I10,x\nICD10,E1!,x\n", "line 3: 'E1!' is no ICD-10-CM"),
        ("system,code,description,weight\nICD10,I10,x,-1\n", "line 2: weight '-1'"),
        ("system,code,description,weight\nICD10,I10,x,nan\n", "line 2: weight 'nan'"),
        ('system,code,description\nICD10,I10,"x\n', "no CSV"),
        ("system,code,description\nICD10\n", "line 2: '' is no"),
    ],
)
def test_a_list_of_codes_that_is_wrong_is_named(tmp_path: Path, text: str, problem: str) -> None:
    path = tmp_path / "codes.csv"
    path.write_text(text)
    with pytest.raises(MedcodeError, match=problem):
        read_codes(path)


def test_a_list_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(MedcodeError, match="cannot be read"):
        read_codes(tmp_path / "none.csv")
