"""The quality of a file as one HTML page: no scripts, nothing from elsewhere, no narrative text."""

from pathlib import Path

from medcode_assets.recipes.reasoning.quality import quality_checks
from medcode_assets.recipes.reasoning.quality_report import QualityReport
from medcode_assets.recipes.reasoning.rules import rule_book, rules
from medcode_serving.codes.systems import SYSTEMS

TEMPLATE = "quality_page.html.j2"


def quality_page(report: QualityReport) -> str:
    """Return the page, complete and self-contained."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    templates = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return templates.get_template(TEMPLATE).render(
        report=report,
        name=Path(report.path).name,
        checks=quality_checks(report),
        groups=rule_book().groups,
        rules=rules(),
        titles={name: system.title for name, system in SYSTEMS.items()},
    )
