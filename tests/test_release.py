"""What a release says of itself: one version, semantic, with its changes."""

import importlib.util
import shutil
from importlib.metadata import version
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SPEC = importlib.util.spec_from_file_location("release_check", ROOT / "tools/release_check.py")
release = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(release)


def test_all_packages_have_the_changelogs_version():
    assert release.version() == version("eldr-service")
    named = release.versions()
    for file in ("Cargo.toml", "package.json", "pom.xml", "CMakeLists.txt", "pyproject.toml"):
        assert any(path.endswith(file) for path in named), file


@pytest.mark.parametrize(
    ("path", "was", "becomes", "said"),
    [
        ("clients/rust/Cargo.toml", '"0.1.0"', '"0.2.0"', "0.2.0  clients/rust/Cargo.toml"),
        ("clients/java/pom.xml", "<version>0.1.0<", "<version>1.0<", "1.0  clients/java/pom.xml"),
        ("CHANGELOG.md", "## 0.1.0", "## 0.0.9", "begin with '## 0.1.0', found ## 0.0.9"),
    ],
)
def test_another_version_is_found(tmp_path, monkeypatch, path, was, becomes, said):
    for name in (*release.versions(), "CHANGELOG.md"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, tmp_path / name)
    text = (tmp_path / path).read_text()
    assert was in text
    (tmp_path / path).write_text(text.replace(was, becomes, 1))
    monkeypatch.setattr(release, "ROOT", tmp_path)
    with pytest.raises(SystemExit, match=said):
        release.version()
