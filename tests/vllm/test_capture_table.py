"""The matrix of captured architectures, as a table between the markers of a README."""

import pytest

from benchmarks.engines.capture_matrix.cell import CHECKOUT
from benchmarks.engines.capture_matrix.table import BEGIN, END, markdown, put_into


def cell(architecture, configuration="eager", verdict="exact", why="", vllm="0.32.0"):
    return {
        "vllm": vllm,
        "configuration": configuration,
        "architecture": architecture,
        "verdict": verdict,
        "why": why,
    }


def test_what_is_exact_and_why_the_rest_is_not():
    failed = {"verdict": "vLLM fails", "why": "no kernel | none"}
    table = markdown(
        [
            cell("mixtral", "v2"),
            cell("olmoe"),
            cell("jamba", **failed),
            cell("gemma4"),
            cell("lfm2_moe", "eager", "refused", "no full attention", vllm="0.31.0"),
            cell("jamba", "v2", **failed),
        ]
    )
    assert table.splitlines() == [
        "| vLLM | configuration | exact | not |",
        "|---|---|---|---|",
        "| 0.31.0 | eager | none | lfm2_moe |",
        "| 0.32.0 | eager | olmoe, gemma4 | jamba |",
        "| 0.32.0 | v2 | mixtral | jamba |",
        "",
        "| not exact | where | because |",
        "|---|---|---|",
        r"| jamba | 0.32.0 eager, 0.32.0 v2 | vLLM fails: no kernel \| none |",
        "| lfm2_moe | 0.31.0 eager | refused: no full attention |",
    ]
    assert "because" not in markdown([cell("olmoe")])


def test_the_table_replaces_what_stands_between_the_markers(tmp_path):
    readme = tmp_path / "README.md"
    readme.write_text(f"before\n{BEGIN}\nan older table\n{END}\nafter\n")
    table = markdown([cell("olmoe", why=r"a \1 that is no group")])
    for _ in range(2):
        put_into(readme, table)
        assert readme.read_text() == f"before\n{BEGIN}\n{table}\n{END}\nafter\n"


def test_a_readme_without_markers_is_left_alone(tmp_path):
    readme = tmp_path / "README.md"
    readme.write_text("nothing of the kind\n")
    with pytest.raises(ValueError, match="has no"):
        put_into(readme, "table")
    assert readme.read_text() == "nothing of the kind\n"


def test_the_readme_has_a_place_for_it():
    text = (CHECKOUT / "clients/vllm/README.md").read_text()
    assert text.count(BEGIN) == text.count(END) == 1
    assert text.index(BEGIN) < text.index(END)
