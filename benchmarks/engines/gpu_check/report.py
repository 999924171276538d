"""The table, and a document for programs."""

from collections.abc import Mapping, Sequence

from rich.console import Console
from rich.table import Table

from benchmarks.engines.gpu_check.curve import Curve
from benchmarks.engines.gpu_check.findings import Finding

COLUMNS = 100


def print_table(
    about: Mapping[str, str],
    parts: Mapping[str, Sequence[Finding]],
    curve: tuple[str, Sequence[Curve]],
    console: Console,
) -> None:
    """Print all findings, below the machine they were found on."""
    console.rule("ELDR gpu-check")
    width = max(map(len, about))
    for name, said in about.items():
        console.print(f"{name:{width}}  {said}", markup=False, highlight=False)
    for title, found in parts.items():
        console.print(f"\n[bold]{title}", highlight=False)
        table = Table(box=None, pad_edge=False, show_header=False, width=COLUMNS)
        table.add_column(width=38)
        table.add_column(ratio=1)
        table.add_column(no_wrap=True, justify="right", width=8)
        for each in found:
            table.add_row(each.what, each.found, each.verdict)
        console.print(table, highlight=False)
    print_curves(*curve, console)


def print_curves(mode: str, curves: Sequence[Curve], console: Console) -> None:
    """Print us per layer by active experts, one row per batch size."""
    if not curves:
        return
    console.print(f"\n[bold](c) step time against active experts[/], us per layer, {mode}")
    for curve in curves:
        table = Table(box=None, pad_edge=False, show_header=False)
        table.add_column(width=12)
        for _ in curve.active:
            table.add_column(justify="right", min_width=7, no_wrap=True)
        table.add_row(f"{curve.rows} rows", *map(str, curve.active))
        table.add_row("", *(f"{us:,.0f}" for us in curve.us))
        console.print(table, highlight=False)
        console.print(
            f"             = {curve.base_us:,.1f} + {curve.slope_us:.2f} "
            f"({curve.low:.2f} to {curve.high:.2f}) x active experts, "
            f"R2 {curve.r_squared:.3f}: {curve.gb_per_second:,.0f} GB/s",
            highlight=False,
        )
