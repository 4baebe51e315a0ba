"""Results and recommendations by hand, for tests of what follows from them."""

from medcode_assets.recipes.specialty.measuring import Compared, Group, SpecialtyResults, Value


def group(name: str, base: float, tuned: float, *, spread: float = 0.05) -> Group:
    """Return a specialty measured by token F1 alone, each value in the middle of its interval."""

    def value(middle: float) -> Value:
        return Value(value=middle, low=middle - spread, high=middle + spread)

    metric = Compared(name="token_f1", base=value(base), finetuned=value(tuned), difference=value(tuned - base), p=0.5)
    return Group(name=name, answers=10, metrics=(metric,))


def results(*groups: Group) -> SpecialtyResults:
    """Return results of specialties, 0.2 against 0.5 over all."""
    return SpecialtyResults(
        base_model="tiny", overall=group("overall", 0.2, 0.5), specialties=groups, how={}, skipped={}
    )
