"""What a bundle that answers in words must pass before LATEST names it."""

from pathlib import Path

from medcode_assets.config import GateSettings
from medcode_assets.recipes.words.answers import TUNED, UNTUNED
from medcode_assets.recipes.words.measuring import Gain, WordMeasures, WordReport
from medcode_serving.bundle import Bundle, Gate, is_published, latest_bundle
from medcode_serving.errors import MedcodeError

ASKED = "test_questions"
"""Where a bundle's provenance, and the seal of its evaluation, keep `asked_hash`."""
MOST_EMPTY = 0.1
"""Share of answers without a word."""
MOST_CUT = 0.5
"""Share of answers that do not end by themselves."""


def check_word_gates(
    report: WordReport, form: str | None, settings: GateSettings, served: float | str
) -> tuple[Gate, ...]:
    """Hold an evaluated adapter against every gate.

    Args:
        report: Its evaluation.
        form: `Words.form` of its recipe.
        settings: Shares that are asked for, and what is relaxed.
        served: The served adapter's headline measure on the same questions; or why there is none, in words.
    """
    gates = (
        _not_collapsed(report.models[TUNED]),
        _readable(report, form, settings.least_readable),
        _above_untuned(report),
        _no_regression(report, served),
    )
    return tuple(gate.model_copy(update={"relaxed": gate.name in settings.relax and not gate.passed}) for gate in gates)


def _not_collapsed(measured: WordMeasures) -> Gate:
    problems = []
    if measured.empty > MOST_EMPTY:
        problems.append(f"{measured.empty:.0%} of the answers are empty")
    if measured.distinct == 1 and measured.answers > 1:
        problems.append("every question gets the same answer")
    if measured.cut > MOST_CUT:
        problems.append(f"{measured.cut:.0%} of the answers do not end by themselves")
    told = f"{measured.distinct} different answers to {measured.answers} questions, {measured.cut:.0%} broken off"
    return Gate(name="not_collapsed", passed=not problems, reason="; ".join(problems) or told)


def _readable(report: WordReport, form: str | None, least: float) -> Gate:
    """Hold what is written against its form: likelihoods may tell options apart where the text chooses none."""
    name = "readable"
    if form is None:
        return Gate(name=name, passed=True, reason="this recipe asks for no form")
    share, gain = report.models[TUNED].value(form), report.gain(form)
    if share is None:
        return Gate(name=name, passed=False, reason=f"{form} was not measured; see words.json: skipped")
    reason = f"{share:.1%} of the written answers ({form}; at least {least:.1%})"
    if gain is not None:
        reason += f"; untuned base {share - gain.value:.1%}, paired difference {_interval(gain)}"
    return Gate(name=name, passed=share >= least and (gain is None or gain.high >= 0), reason=reason)


def _above_untuned(report: WordReport) -> Gate:
    name, gain = "above_untuned_base", report.gain(report.headline)
    if UNTUNED not in report.models:
        return Gate(name=name, passed=True, reason="the untuned base was not evaluated")
    if gain is None:
        return Gate(name=name, passed=False, reason=f"{report.headline} was not measured; see words.json: skipped")
    values = [report.models[model].value(report.headline) for model in (TUNED, UNTUNED)]
    sure = gain.low > 0
    unsure = "" if sure or gain.value <= 0 else ": it may be chance; more test questions may tell"
    return Gate(
        name=name,
        passed=sure,
        reason=f"{report.headline} on test: adapter {values[0]:.4f}, untuned base {values[1]:.4f}; paired difference "
        f"{_interval(gain)} on {report.models[TUNED].answers:,} questions{unsure}",
    )


def _interval(gain: Gain) -> str:
    return f"{gain.value:+.4f} ({gain.low:+.4f} to {gain.high:+.4f})"


def _no_regression(report: WordReport, served: float | str) -> Gate:
    name = "no_regression"
    if isinstance(served, str):
        return Gate(name=name, passed=True, reason=served)
    ours = next(metric for metric in report.models[TUNED].metrics if metric.name == report.headline)
    return Gate(
        name=name,
        passed=ours.high >= served,
        reason=f"{report.headline} on test: this adapter {ours.value:.4f} ({ours.low:.4f} to {ours.high:.4f}), the "
        f"served one {served:.4f}",
    )


def served_headline(bundles: Path, recipe: str, version: str, asked: str, headline: str) -> float | str:
    """Return the served adapter's headline measure on the same questions; or why there is none, in words.

    Args:
        bundles: Folder of all bundles.
        recipe: Whose.
        version: The bundle that is held against the served one.
        asked: `asked_hash` of its test questions.
        headline: Name of the measure.
    """
    if not is_published(bundles, recipe):
        return "nothing is published yet"
    try:
        served: Bundle = latest_bundle(bundles, recipe)
    except MedcodeError:
        return "the served bundle cannot be read"
    manifest = served.manifest
    if manifest.version == version:
        return "this bundle is the served one"
    if manifest.provenance.settings.get(ASKED) != asked:
        return f"the served {manifest.version} was measured on other questions"
    for metric in manifest.metrics:
        if (metric.name, metric.engine) == (headline, TUNED):
            return metric.value
    return f"the served {manifest.version} has no {headline}"
