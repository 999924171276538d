"""The report as a PDF: the page's words and tables, and its pictures as vectors."""

from collections.abc import Iterator, Sequence
from importlib.resources import as_file, files
from io import BytesIO
from typing import Any
from xml.sax.saxutils import escape

from pypdf import PdfReader, PdfWriter, Transformation
from reportlab.lib.colors import HexColor
from reportlab.lib.pagesizes import A4
from reportlab.lib.styles import ParagraphStyle
from reportlab.lib.units import cm
from reportlab.pdfbase.pdfmetrics import registerFont, registerFontFamily
from reportlab.pdfbase.ttfonts import TTFont
from reportlab.platypus import (
    CondPageBreak,
    Flowable,
    KeepTogether,
    Paragraph,
    SimpleDocTemplate,
    Spacer,
)
from reportlab.platypus import Table as Grid

from eldr_service.lab.reports.drawing import pdf
from eldr_service.lab.reports.palette import GRID, INK, POLICIES, QUIET
from eldr_service.lab.reports.report import Report, Tile
from eldr_service.lab.reports.sections import Section, Table

MARGIN = 1.8 * cm
WIDTH = A4[0] - 2 * MARGIN
GAP = 0.5 * cm
FONT, BOLD, MONO = "DejaVu Sans", "DejaVu Sans Bold", "DejaVu Sans Mono"
CARD, ACCENT = HexColor("#f4f6f8"), HexColor(POLICIES["locality-band"][0])

TEXT = ParagraphStyle("text", fontName=FONT, fontSize=8.5, leading=12.5, textColor=HexColor(INK))
TITLE = ParagraphStyle("title", TEXT, fontName=BOLD, fontSize=17, leading=22, spaceAfter=6)
LEAD = ParagraphStyle("lead", TEXT, fontSize=10.5, leading=15.5, spaceAfter=8)
HEADING = ParagraphStyle(
    "heading", TEXT, fontName=BOLD, fontSize=12, leading=15, spaceBefore=16, spaceAfter=4
)
QUIETLY = ParagraphStyle("quiet", TEXT, fontSize=6.5, leading=9, textColor=HexColor(QUIET))
LABEL = ParagraphStyle("label", QUIETLY, fontName=BOLD, fontSize=7.5, leading=10)
NUMBER = ParagraphStyle("number", TEXT, fontName=BOLD, fontSize=14, leading=18, textColor=ACCENT)
CELL = ParagraphStyle("cell", TEXT, fontSize=6, leading=8)
RIGHT = ParagraphStyle("right", CELL, alignment=2)
HEAD = ParagraphStyle("head", RIGHT, fontName=BOLD, textColor=HexColor(QUIET))
HEAD_LEFT = ParagraphStyle("head-left", HEAD, alignment=0)


class _Picture(Flowable):
    """Room for a picture that is laid on the finished page; it notes where."""

    def __init__(self, picture: bytes, width: float, placed: list[tuple[int, float, float, Any]]):
        super().__init__()
        self._picture = PdfReader(BytesIO(picture)).pages[0]
        box = self._picture.mediabox
        self.scale = width / float(box.width)
        self.width, self.height = width, float(box.height) * self.scale
        self._placed = placed

    def wrap(self, *_: float) -> tuple[float, float]:
        return self.width, self.height

    def draw(self) -> None:
        x, y = self.canv.absolutePosition(0, 0)
        change = Transformation().scale(self.scale).translate(x, y)
        self._placed.append((self.canv.getPageNumber(), x, y, (self._picture, change)))


def paper(report: Report) -> bytes:
    """A4 pages with real text."""
    _register_fonts()
    placed: list[tuple[int, float, float, Any]] = []
    file = BytesIO()
    document = SimpleDocTemplate(
        file,
        pagesize=A4,
        leftMargin=MARGIN,
        rightMargin=MARGIN,
        topMargin=MARGIN,
        bottomMargin=MARGIN,
        title=report.title,
        author="ELDR",
        lang="en",
        invariant=1,
    )
    document.build(list(_story(report, placed)), onFirstPage=_foot, onLaterPages=_foot)
    writer = PdfWriter(clone_from=BytesIO(file.getvalue()))
    for number, _, _, (picture, change) in placed:
        writer.pages[number - 1].merge_transformed_page(picture, change)
    for page in writer.pages:
        page.compress_content_streams()
    finished = BytesIO()
    writer.write(finished)
    return finished.getvalue()


def _story(report: Report, placed: list[Any]) -> Iterator[Any]:
    yield _words(report.title, TITLE)
    yield _words(report.verdict, LEAD)
    yield _tiles(report.tiles)
    yield Spacer(0, 8)
    yield _facts(report.facts)
    yield _words("Every policy at this load", HEADING)
    yield _words(
        "Δ is against the best policy that sees load alone, for each figure the best by that"
        " figure, with Student's 95% interval over paired seeds; below zero is better.",
        TEXT,
    )
    yield Spacer(0, 4)
    yield _grid(report.table)
    yield _source(report, report.command)
    for section in report.sections:
        yield from _section(report, section, placed)
    yield CondPageBreak(4 * cm)
    yield _words("What this cannot tell", HEADING)
    for limit in report.limits:
        yield Paragraph(escape(limit), TEXT, bulletText="•")
        yield Spacer(0, 3)


def _section(report: Report, section: Section, placed: list[Any]) -> Iterator[Any]:
    width = (WIDTH - GAP) / 2
    pictures = []
    for panel in section.panels:
        picture = _Picture(pdf(panel.canvas), width, placed)
        named = [_words(panel.title, LABEL)] if section.name == "map" else []
        pictures.append([*named, picture])
    rows = [pictures[i : i + 2] for i in range(0, len(pictures), 2)]
    plain = [("LEFTPADDING", (0, 0), (-1, -1), 0), ("RIGHTPADDING", (0, 0), (-1, -1), 0)]
    top = [("VALIGN", (0, 0), (-1, -1), "TOP")]
    drawn = Grid(
        [[*row, *[""] * (2 - len(row))] for row in rows],
        colWidths=[width + GAP, width],
        style=[*plain, *top],
        hAlign="LEFT",
    )
    yield KeepTogether(
        [
            _words(section.title, HEADING),
            _words(section.text, TEXT),
            Spacer(0, 4),
            drawn,
        ]
    )
    yield _grid(section.table)
    yield _source(report, section.command)


def _words(text: str, style: ParagraphStyle) -> Any:
    return Paragraph(escape(text), style)


def _source(report: Report, command: str) -> Any:
    data, seeds = report.facts[0][1], report.facts[-1][1]
    code = f'<font face="{MONO}">{escape(command)}</font>'
    words = f"Data: {escape(data)}. Seeds {escape(seeds)}. The same again: {code}"
    return Paragraph(words, ParagraphStyle("source", QUIETLY, spaceBefore=5))


def _tiles(tiles: Sequence[Tile]) -> Any:
    cells = [
        [
            _words(tile.label, LABEL),
            _words(tile.number, NUMBER),
            *(_words(line, QUIETLY) for line in tile.lines),
        ]
        for tile in tiles
    ]
    style = [
        ("BACKGROUND", (0, 0), (-1, -1), CARD),
        ("VALIGN", (0, 0), (-1, -1), "TOP"),
        ("LEFTPADDING", (0, 0), (-1, -1), 8),
        ("TOPPADDING", (0, 0), (-1, -1), 7),
        ("BOTTOMPADDING", (0, 0), (-1, -1), 8),
    ]
    return Grid([cells], colWidths=[WIDTH / len(tiles)] * len(tiles), style=style)


def _facts(facts: Sequence[tuple[str, str]]) -> Any:
    rows = [[_words(name, QUIETLY), _words(value, CELL)] for name, value in facts]
    style = [("LEFTPADDING", (0, 0), (0, -1), 0), ("TOPPADDING", (0, 0), (-1, -1), 0.5)]
    return Grid(
        rows,
        colWidths=[2 * cm, WIDTH - 2 * cm],
        style=[*style, ("BOTTOMPADDING", (0, 0), (-1, -1), 0.5)],
    )


def _grid(table: Table) -> Any:
    heads = [_words(h, HEAD if i else HEAD_LEFT) for i, h in enumerate(table.headings)]
    rows = [
        [
            Paragraph(escape(cell).replace("\n", "<br/>"), RIGHT if i else CELL)
            for i, cell in enumerate(row)
        ]
        for row in table.rows
    ]
    columns = zip(table.headings, *table.rows, strict=True)
    lengths = [
        max(
            max(map(len, heading.split())) + 2,
            *(len(line) + 1 for cell in cells for line in cell.splitlines()),
        )
        for heading, *cells in columns
    ]
    share = WIDTH / max(sum(lengths), 60)
    style = [
        ("LINEBELOW", (0, 0), (-1, -1), 0.4, HexColor(GRID)),
        ("VALIGN", (0, 0), (-1, 0), "BOTTOM"),
        ("VALIGN", (0, 1), (-1, -1), "TOP"),
        ("LEFTPADDING", (0, 0), (-1, -1), 0),
        ("RIGHTPADDING", (0, 0), (-1, -1), 5),
        ("TOPPADDING", (0, 0), (-1, -1), 1.5),
        ("BOTTOMPADDING", (0, 0), (-1, -1), 1.5),
    ]
    widths = [share * length for length in lengths]
    return Grid([heads, *rows], colWidths=widths, style=style, repeatRows=1, hAlign="LEFT")


def _foot(canvas: Any, document: Any) -> None:
    canvas.setFont(FONT, 6.5)
    canvas.setFillColor(HexColor(QUIET))
    canvas.drawString(MARGIN, MARGIN / 2, document.title)
    canvas.drawRightString(A4[0] - MARGIN, MARGIN / 2, str(canvas.getPageNumber()))


def _register_fonts() -> None:
    """Those that matplotlib brings: pictures and text look alike, and hold every letter."""
    faces = {FONT: "DejaVuSans.ttf", BOLD: "DejaVuSans-Bold.ttf", MONO: "DejaVuSansMono.ttf"}
    for name, file in faces.items():
        with as_file(files("matplotlib") / "mpl-data" / "fonts" / "ttf" / file) as path:
            registerFont(TTFont(name, str(path)))
    registerFontFamily(FONT, normal=FONT, bold=BOLD, italic=FONT, boldItalic=BOLD)
