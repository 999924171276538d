"""The report as one self-contained HTML page, for screens and paper."""

from importlib.resources import files

from jinja2 import Environment, StrictUndefined

from eldr_service.lab.reports.palette import GRID, INK, LIGHT_TO_DARK, QUIET, variable
from eldr_service.lab.reports.report import Report
from eldr_service.lab.reports.svg import TEXT


def page(report: Report) -> str:
    """HTML with its pictures inline."""
    environment = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    ours = files(__package__)
    template = environment.from_string(ours.joinpath("page.html").read_text("utf-8"))
    pictures = {
        section.name: [
            panel.picture.draw(f"{section.name}-{i}", panel.title, panel.description)
            for i, panel in enumerate(section.panels)
        ]
        for section in report.sections
    }
    light = {variable(colour): colour for colour in LIGHT_TO_DARK}
    dark = {variable(colour): other for colour, other in LIGHT_TO_DARK.items()}
    names = {"ink": variable(INK), "quiet": variable(QUIET), "grid": variable(GRID)}
    style = environment.from_string(ours.joinpath("page.css").read_text("utf-8"))
    foot = f"ELDR {report.version}, {report.made:%Y-%m-%d}"
    return template.render(
        report=report,
        pictures=pictures,
        style=style.render(light=light, dark=dark, names=names, text=TEXT, foot=foot),
    )
