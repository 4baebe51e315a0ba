"""When a specialty is weak, and how much more it is to get."""

from pathlib import Path

import pytest

from medcode_assets.recipes.specialty.recommending import FILE, Recommendations, read_recommendations, recommend
from medcode_assets.recipes.specialty.sampling import Counts
from medcode_assets.recipes.specialty.settings import SpecialtySection
from medcode_serving.errors import MedcodeError
from tests.assets.recipes.specialty.advice import group, results


def counted(**pools: int) -> dict[str, Counts]:
    return {name: Counts(10, 10, 40, pool) for name, pool in pools.items()}


def test_the_rule_by_hand() -> None:
    # Mean of 0.8, 0.5, 0.2, 0.5: 0.5; the limit 0.45.
    found = recommend(
        results(group("a", 0.1, 0.8), group("b", 0.1, 0.5), group("c", 0.1, 0.2), group("d", 0.6, 0.5)),
        counted(a=50, b=50, c=50, d=10),
        SpecialtySection(),
    )
    assert (found.rule.mean, found.rule.limit) == (pytest.approx(0.5), pytest.approx(0.45))
    assert found.low_performance_specialties == ("c", "d")
    assert found.weak["c"].reasons == ("below_mean",)
    assert found.weak["c"].certain
    assert found.weak["d"].reasons == ("regressed",)
    # d's pool gives 10 samples to 40.
    assert found.recommended_sample_increases == {"c": 1.5, "d": 1.25}
    assert found.weak["d"].exhausted and not found.weak["c"].exhausted
    assert found.overall_improvement == pytest.approx(0.3)


def test_an_empty_pool_is_told_and_recommends_nothing() -> None:
    found = recommend(results(group("a", 0, 0.8), group("b", 0, 0.1)), counted(a=5, b=0), SpecialtySection())
    assert found.low_performance_specialties == ("b",)
    assert found.recommended_sample_increases == {}
    assert found.weak["b"].exhausted


def test_an_absolute_limit_alone() -> None:
    section = SpecialtySection(below_mean=0.0, below=0.6, increase=2.0)
    found = recommend(results(group("a", 0, 0.59, spread=0.1), group("b", 0, 0.6)), counted(a=50, b=50), section)
    assert found.recommended_sample_increases == {"a": 2.0}
    assert found.weak["a"].reasons == ("below",)
    assert not found.weak["a"].certain


@pytest.mark.parametrize("contents", ["", "{", "\ud800", '{"recommended_sample_increases": {"a": 1e999}}'])
def test_a_changed_file_is_refused_in_a_line(tmp_path: Path, contents: str) -> None:
    (tmp_path / FILE).write_text(contents, errors="surrogatepass")
    with pytest.raises(MedcodeError, match=rf"{FILE}: unreadable .*specialty\.adjustments"):
        read_recommendations(tmp_path)


def test_factors_that_no_pool_has_are_refused() -> None:
    found = recommend(results(group("a", 0, 0.8), group("b", 0, 0.1)), counted(a=5, b=9), SpecialtySection())
    for factor in (float("inf"), float("nan"), 0.5, 1e308):
        with pytest.raises(ValueError, match="recommended_sample_increases"):
            Recommendations.model_validate({**found.model_dump(), "recommended_sample_increases": {"b": factor}})


def test_equals_are_not_weak() -> None:
    found = recommend(results(group("a", 0, 0.5), group("b", 0, 0.5)), counted(a=50, b=50), SpecialtySection())
    assert found.low_performance_specialties == ()
    assert found.recommended_sample_increases == {}
