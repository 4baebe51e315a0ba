import pytest
from hypothesis import given
from hypothesis import strategies as st

from medcode_serving.codes.systems import SYSTEMS, dotted, undotted
from medcode_serving.errors import MedcodeError

BARE = st.text("ABEVXZ0123456789", min_size=1, max_size=8)


@pytest.mark.parametrize(
    ("system", "code", "expected"),
    [
        ("icd9cm", "4019", "401.9"),
        ("icd9cm", "042", "042"),
        ("icd9cm", "V5861", "V58.61"),
        ("icd9cm", "E8120", "E812.0"),
        ("icd9cm", "E812", "E812"),
        ("icd9pcs", "0331", "03.31"),
        ("icd9pcs", "38", "38"),
        ("icd10cm", "i10", "I10"),
        ("icd10cm", "I10.", "I10"),
        ("icd10cm", " e119 ", "E11.9"),
        ("icd10cm", "S72001A", "S72.001A"),
        ("icd10pcs", "0dtj4zz", "0DTJ4ZZ"),
        ("cpt", "99213", "99213"),
        ("hcpcs", "J1885", "J1885"),
    ],
)
def test_dots_go_where_the_system_has_them(system: str, code: str, expected: str) -> None:
    assert dotted(system, code) == expected
    assert SYSTEMS[system].pattern.fullmatch(expected)


@given(st.sampled_from(sorted(SYSTEMS)), BARE)
def test_dotting_is_undone_and_repeats_without_change(system: str, code: str) -> None:
    once = dotted(system, code)
    assert undotted(once) == code
    assert dotted(system, once) == once
    assert not once.endswith(".")


def test_an_unknown_system_is_refused() -> None:
    with pytest.raises(MedcodeError, match="icd11"):
        dotted("icd11", "1A00")
