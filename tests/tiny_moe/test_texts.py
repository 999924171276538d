import pytest

from benchmarks.engines.tiny_moe import roff, texts

PAGE = r"""'\" t
.\" Copyright
.TH LS 1 "May 2021"
.SH "NAME"
ls \- list \fBdirectory\fP contents
.PP
.BR chmod (2)
follows\(em\fI\,or\/\fP not.\" a remark
.IP "one item" 4
costs 3\en
"""


def test_a_page_is_read_without_its_markup():
    assert roff.plain(PAGE) == (
        "NAME\nls - list directory contents\n\nchmod(2)\nfollows—or not.\n\none item\ncosts 3\\n\n"
    )


def test_paragraphs_in_another_script_are_left_out():
    page = "не переведено\n.PP\nnot translated\n.PP\nснова\n"
    assert roff.plain(page, "[а-яё]") == "не переведено\n\nснова\n"


@pytest.fixture
def cache(tmp_path):
    """Python files as they would be unpacked: each of lines that are its own, but for the first."""
    folder = tmp_path / "python" / "usr" / "lib" / "python3.11"
    folder.mkdir(parents=True)
    for i in range(120):
        lines = ["# a heading that all files have\n" * 40]
        lines += [f"value_{i}_{j} = compute({i * 1000 + j}) + größe\n" for j in range(40)]
        (folder / f"module_{i}.py").write_text("".join(lines))
    return tmp_path


def test_each_file_is_in_one_part(cache):
    parts = {part: set(texts.read("python", part, cache)) for part in texts.PARTS}
    assert sum(map(len, parts.values())) == len(set.union(*parts.values())) == 120
    assert len(parts["train"]) > 80
    assert min(len(parts["fit"]), len(parts["serve"])) >= 5


def test_prompts_have_their_sizes_and_are_not_in_the_training_part(cache):
    sizes = [96, 120, 131]
    known = "".join(texts.read("python", "train", cache))
    prompts = texts.prompts("python", "serve", sizes, cache)
    assert [len(prompt.encode()) for prompt in prompts] == sizes
    assert all(prompt.startswith("value_") for prompt in prompts)
    assert not any(prompt[:48] in known for prompt in prompts)
    with pytest.raises(ValueError, match="serve part of python"):
        texts.prompts("python", "serve", [100] * 10_000, cache)
