import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from medcode_serving.engines.constraints import CodeLanguage

CODES = ("E11", "E11.9", "E11.65", "I10", "0DTJ4ZZ", "icd9cm:401.9")
TEXTS = st.lists(st.text("E1.:z-", min_size=1, max_size=5).filter(str.strip), min_size=1, max_size=8, unique=True)


def regex_of(grammar: str) -> str:
    """Translate the little of GBNF that is used: literals, classes, groups, `|`, `?`, `{m,n}` and the rule `code`."""
    root, code = (line.partition(" ::= ")[2] for line in grammar.splitlines())
    parts = re.findall(r'"[^"]*"|\[[^\]]*\]|\{[0-9,]+\}|code|[()|?]', root.replace("code", f"({code})"))
    assert "".join(parts).replace(" ", "") == root.replace("code", f"({code})").replace(" ", "")
    return "".join(re.escape(part[1:-1]) if part.startswith('"') else part for part in parts)


def patterns(language: CodeLanguage, max_codes: int) -> list[str]:
    return [language.regex(max_codes), regex_of(language.grammar(max_codes))]


@given(data=st.data(), texts=TEXTS, max_codes=st.integers(1, 4), leading_space=st.booleans())
def test_the_language_is_that_of_lists_of_codes(data, texts: list[str], max_codes: int, leading_space: bool) -> None:
    # Codes and what is nearly one, written as an answer with one thing wrong or none.
    words = data.draw(st.lists(st.sampled_from([*texts, "E1.", "z"]), max_size=6))
    before, between = data.draw(st.sampled_from([(" ", ", ")] * 3 + [("", ", "), (" ", ","), (" ", ", , ")]))
    answer = before + between.join(words)
    valid = (
        all(word in texts for word in words)
        and 1 <= len(words) <= max_codes
        and (before == " " or not leading_space)
        and (between == ", " or len(words) == 1)
    )
    for pattern in patterns(CodeLanguage(texts, leading_space), max_codes):
        assert bool(re.fullmatch(pattern, answer)) == valid


@pytest.mark.parametrize("answer", [" E11", " E11.65, E11", " 0DTJ4ZZ, icd9cm:401.9", " I10, I10"])
def test_answers_of_the_language(answer: str) -> None:
    for pattern in patterns(CodeLanguage(CODES), 2):
        assert re.fullmatch(pattern, answer)


@pytest.mark.parametrize("answer", ["", " ", " E11.", " E11.6", " 401.9", " I10,", " I10, E11, E11.9", " I10 ", "I10"])
def test_answers_outside(answer: str) -> None:
    for pattern in patterns(CodeLanguage(CODES), 2):
        assert not re.fullmatch(pattern, answer)


def test_codes_with_the_same_ends_are_written_once() -> None:
    letters, digits = "ABCDEFGHIJKLMNOPQRSTUVWXYZ", "0123456789"
    ends = ["", *(f".{digit}" for digit in digits)]
    language = CodeLanguage([letter + digit + end for letter in letters for digit in digits for end in ends])
    assert len(language.texts) == 2860
    assert len(language.grammar(40)) < 120
    assert len(language.regex(40)) < 180
