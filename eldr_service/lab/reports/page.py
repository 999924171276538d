"""The report as one HTML page that needs nothing else."""

from importlib.resources import files

from jinja2 import Environment, StrictUndefined

from eldr_service.lab.reports.drawing import svg
from eldr_service.lab.reports.inline_svg import inline, variable
from eldr_service.lab.reports.palette import GRID, INK, LIGHT_TO_DARK, QUIET
from eldr_service.lab.reports.report import Report


def page(report: Report) -> str:
    """HTML with its pictures inside."""
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True)
    template = environment.from_string(files(__package__).joinpath("page.html").read_text("utf-8"))
    pictures = {
        section.name: [
            inline(svg(panel.canvas), f"{section.name}-{i}", panel.title, panel.description)
            for i, panel in enumerate(section.panels)
        ]
        for section in report.sections
    }
    light = {variable(colour): colour for colour in LIGHT_TO_DARK}
    dark = {variable(colour): other for colour, other in LIGHT_TO_DARK.items()}
    names = {"ink": variable(INK), "quiet": variable(QUIET), "grid": variable(GRID)}
    return template.render(report=report, pictures=pictures, light=light, dark=dark, names=names)
