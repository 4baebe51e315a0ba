"""Where sections begin and which of them are kept; all notes are invented."""

from hypothesis import given
from hypothesis import strategies as st

from medcode_serving.sections import Part, join_parts, plan, sections, split_note


def names(note: str) -> list[str]:
    return [part.name for part in split_note(note)]


def test_headings_of_both_versions_in_any_case() -> None:
    note = (
        "Name: ___\nService: MEDICINE\n\nALLERGIES: none\n\nHISTORY OF PRESENT ILLNESS:  Cough.\n\n"
        "Physical Exam\nFine.\n\nHOSPITAL  COURSE BY SYSTEM: Cardiac.\n  discharge diagnosis:\nHTN\n\n"
        "Followup Instructions:\n___\nADDENDUM:\nMore."
    )
    assert names(note) == [
        "text",
        "service",
        "allergies",
        "history_of_present_illness",
        "physical_exam",
        "hospital_course",
        "discharge_diagnosis",
        "follow_up",
        "addendum",
    ]


def test_words_of_a_heading_inside_a_line_or_unknown_headings_begin_nothing() -> None:
    assert names("He took his discharge medications: none.\nAllergies were denied\nWOUND CARE:\ndry") == ["text"]
    assert names("Pertinent Results:\nCBC:\n1\nWOUND CARE:\ndry") == ["results"]


def test_a_note_without_headings_is_one_part() -> None:
    assert split_note("Fever.\nCough.") == [Part("text", 0, 13, 7)]


@given(st.lists(st.sampled_from(["HPI:", "Allergies: none", " Service:", "word", "", "Discharge Diagnosis"])))
def test_parts_are_the_whole_note(lines: list[str]) -> None:
    note = "\n".join(lines)
    parts = split_note(note)
    assert "".join(note[part.start : part.end] for part in parts) == note


def part(name: str, priority: int) -> Part:
    return Part(name, 0, 0, priority)


PARTS = [part("text", 7), part("hospital_course", 4), part("discharge_diagnosis", 1), part("follow_up", 14)]


def test_the_budget_goes_to_the_first_priorities() -> None:
    chosen = plan(PARTS, [50, 100, 20, 30], 200)
    assert (chosen.kept, chosen.cut) == ((50, 100, 20, 30), ())
    chosen = plan(PARTS, [50, 100, 20, 30], 140)  # 20 + 100, and 20 left for the text; then nothing
    assert (chosen.kept, chosen.cut) == ((20, 100, 20, 0), ("text", "follow_up"))
    chosen = plan(PARTS, [50, 100, 20, 30], 130)  # 10 left are too few to say anything
    assert (chosen.kept, chosen.cut) == ((0, 100, 20, 0), ("text", "follow_up"))
    chosen = plan(PARTS, [50, 100, 20, 30], 5)  # never nothing
    assert (chosen.kept, chosen.cut) == ((0, 0, 5, 0), ("text", "hospital_course", "discharge_diagnosis", "follow_up"))


def test_a_section_cut_twice_is_named_once() -> None:
    assert plan([part("text", 1), part("addendum", 2), part("addendum", 2)], [9, 9, 9], 9).cut == ("addendum",)


@given(
    st.lists(st.tuples(st.integers(1, 3), st.integers(0, 60)), min_size=1),
    st.integers(1, 500),
)
def test_a_plan_keeps_within_its_budget(parts: list[tuple[int, int]], budget: int) -> None:
    lengths = [length for _, length in parts]
    chosen = plan([part(str(priority), priority) for priority, _ in parts], lengths, budget)
    assert sum(chosen.kept) <= budget
    assert all(0 <= kept <= length for kept, length in zip(chosen.kept, lengths, strict=True))
    assert bool(chosen.cut) == (sum(lengths) > budget)
    shortened = [kept for kept, length in zip(chosen.kept, lengths, strict=True) if 0 < kept < length]
    assert len(shortened) <= 1


def test_what_is_kept_begins_on_lines_of_its_own() -> None:
    assert join_parts(["HPI: a b", "", "Allergies: none\n", "Service: x"]) == "HPI: a b\nAllergies: none\nService: x"


def test_names_and_headings_are_unique() -> None:
    assert len({section.name for section in sections()}) == len(sections())
    headings = [heading.lower() for section in sections() for heading in section.headings]
    assert len(set(headings)) == len(headings)
