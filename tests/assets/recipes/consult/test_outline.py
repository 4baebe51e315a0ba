"""Hierarchical lists as models write them, read into the same outline."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from medcode_assets.recipes.consult.outline import Outline, Point, clean, parse, render

ANSWER = "This is a simple cold."
WANTED = Outline(
    ANSWER,
    (
        Point("What to do", (Point("Rest for a week."), Point("Drink enough.", (Point("Two liters."),)))),
        Point("When to seek help", (Point("Fever over 39."),)),
    ),
)
WRITTEN = {
    "numbers": """
1. What to do
   1.1 Rest for a week.
   1.2 Drink enough.
      1.2.1 Two liters.
2. When to seek help
   2.1 Fever over 39.
""",
    "numbers without indentation": """
1. What to do
1.1. Rest for a week.
1.2. Drink enough.
1.2.1. Two liters.
2. When to seek help
2.1. Fever over 39.
""",
    "letters and numerals": """
1) **What to do**
   a) Rest for a week.
   b) Drink enough.
      i) Two liters.
2) **When to seek help**
   a) Fever over 39.
""",
    "letters without indentation": """
A. What to do
1. Rest for a week.
2. Drink enough.
- Two liters.
B. When to seek help
1. Fever over 39.
""",
    "bullets": """
- What to do
  - Rest for a week.
  - Drink enough.
    - Two liters.
- When to seek help
  - Fever over 39.
""",
    "bullets of several kinds": """
• What to do
– Rest for a week.
– Drink enough.
◦ Two liters.
• When to seek help
– Fever over 39.
""",
    "tabs": """
(1) What to do
\t* Rest for a week.
\t* Drink enough.
\t\t+ Two liters.
(2) When to seek help
\t* Fever over 39.
""",
    "headings": """
## What to do
- Rest for a week.
- Drink enough.
    - Two liters.

## When to seek help
- Fever over 39.
""",
    "bold lines": """
**1. What to do:**

* Rest for a week.
* Drink
  enough.
   * __Two liters.__

**2. When to seek help**

* Fever over 39.
""",
    "bold numbers": """
**1.** What to do
   - Rest for a week.
   - Drink enough.
      - Two liters.
**2. When** to seek help
   - Fever over 39.
""",
    "headings over text": """
### What to do
Rest for a week.

Drink enough.
- Two liters.
### When to seek help
Fever
over 39.
""",
}


@pytest.mark.parametrize("kind", [kind for kind in WRITTEN if kind != "headings over text"])
def test_every_way_to_write_a_list_is_read_the_same(kind: str) -> None:
    assert parse(f"{ANSWER}\n{WRITTEN[kind]}") == WANTED


def test_what_stands_under_a_heading_is_a_point() -> None:
    first, second = parse(f"{ANSWER}\n{WRITTEN['headings over text']}").points
    assert [point.text for point in first.below] == ["Rest for a week.", "Drink enough.", "Two liters."]
    assert [point.text for point in second.below] == ["Fever over 39."]


@pytest.mark.parametrize(
    ("line", "points"),
    [
        ("E. coli is a germ.", 0),
        ("1.5 mg twice a day.", 0),
        ("2 tablets a day.", 0),
        ("*Rest* is enough.", 0),
        ("-5 degrees.", 0),
        ("I. think so.", 1),
        ("a) first", 1),
        ("- ", 1),
        ("12. Twelfth.", 1),
        ("123. Too many.", 0),
    ],
)
def test_what_opens_a_point_and_what_only_looks_like_it(line: str, points: int) -> None:
    assert len(parse(f"{ANSWER}\n{line}").points) == points


def test_an_amount_inside_a_list_belongs_to_its_point() -> None:
    found = parse("1. Take paracetamol\n1.5 mg twice a day.\nE. coli is not harmed.\n2. Rest")
    assert [point.text for point in found.points] == [
        "Take paracetamol 1.5 mg twice a day. E. coli is not harmed.",
        "Rest",
    ]


def test_answer_closing_reasoning_and_fences() -> None:
    found = parse(f"<think>\n1. no\n</think>\n**{ANSWER}**\n```\n1. Rest\n```\n---\nI hope this helps.\n")
    assert found == Outline(ANSWER, (Point("Rest"),), "I hope this helps.")
    assert parse("Just prose.\nTwo lines.") == Outline("Just prose. Two lines.", ())
    assert parse("") == Outline("", ())


def test_a_list_that_goes_on_behind_its_end_is_one_list() -> None:
    found = parse("1. Rest\n\nThis matters.\n\n2. Drink")
    assert found == Outline("", (Point("Rest This matters."), Point("Drink")))


words = st.text("abcdefghijklmnopqrstuvwxyzäé", min_size=1, max_size=8)
texts = st.lists(words, min_size=2, max_size=6).map(lambda found: " ".join(found).capitalize() + ".")
points = st.recursive(
    texts.map(Point),
    lambda below: st.builds(Point, texts, st.lists(below, max_size=4).map(tuple)),
    max_leaves=12,
)
outlines = st.builds(Outline, st.one_of(st.just(""), texts), st.lists(points, min_size=1, max_size=5).map(tuple), texts)


@given(outlines)
def test_what_is_rendered_is_read_again(outline: Outline) -> None:
    assert parse(render(outline)) == outline


lines = st.lists(
    st.one_of(
        st.just(""),
        texts,
        st.builds(
            lambda indent, marker, text: f"{' ' * indent}{marker} {text}",
            st.integers(0, 9),
            st.sampled_from(
                ["1.", "2)", "(3)", "1.1", "1.2.1", "a)", "b.", "A.", "i)", "ii.", "-", "*", "•", "##", "+"]
            ),
            st.one_of(texts, st.just(""), texts.map(lambda text: f"**{text}**")),
        ),
    ),
    max_size=12,
)


@given(lines)
def test_rendering_settles_whatever_a_model_wrote(written: list[str]) -> None:
    once = render(parse("\n".join(written)))
    assert render(parse(once)) == once


@given(st.text(max_size=200))
def test_any_text_is_read(text: str) -> None:
    parse(text)
    assert clean(clean(text)) == clean(text)
