"""Build the documentation as a site: lay all pages out in build/pages, then run zensical there.

Pages are kept in docs/, and as READMEs beside the code that they describe. Here they get their
places in the site; links between them are rewritten to these places, and links to source files to
pages with the source. A broken link ends the build.
"""

import os
import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))
from tools import docs_reference  # noqa: E402

CONFIG = ROOT / "docs/zensical.toml"
ELSEWHERE = {
    "README.md": "index.md",
    "CHANGELOG.md": "changelog.md",
    "CONTRIBUTING.md": "contributing.md",
    "SECURITY.md": "security.md",
    "benchmarks/README.md": "benchmarks.md",
    "benchmarks/demos/demo_vllm/README.md": "demo_vllm.md",
    "benchmarks/engines/tiny_moe/README.md": "tiny_moe.md",
    "clients/conformance/README.md": "clients/conformance.md",
    "clients/cpp/README.md": "clients/cpp.md",
    "clients/go/README.md": "clients/go.md",
    "clients/llm-d/README.md": "clients/llm-d.md",
    "clients/java/README.md": "clients/java.md",
    "clients/node/README.md": "clients/node.md",
    "clients/python/README.md": "clients/python.md",
    "clients/rust/README.md": "clients/rust.md",
    "clients/vllm/README.md": "clients/vllm.md",
    "clients/vllm/eldr_vllm/proxy/README.md": "clients/proxy.md",
    "eldr_service/policies/README.md": "policies.md",
}
"""Pages kept outside docs/, and where in the site they are."""
DESCRIBED = {
    "protos/eldr/v1": "reference/router.md",
    "eldr_service/cli/app.py": "reference/eldr.md",
    "eldr_service/server/options.py": "reference/eldr-server.md",
    "clients/vllm/eldr_vllm/proxy/cli.py": "reference/eldr-proxy.md",
}
"""Sources that have a page in the site's reference."""
LANGUAGES = {
    ".py": "python",
    ".toml": "toml",
    ".yaml": "yaml",
    ".proto": "proto",
    ".service": "ini",
}
LINK = re.compile(r"(`[^`]*`)|(\]\()([^)\s]+)(\))")
FENCE = re.compile(r"( *)(`{3,})(\S*)(?: (\S+))?\s*$")
LIST = re.compile(r"(?:[-*]|\d+\.) ")


def pages() -> dict[str, str]:
    """Pages written by hand: path in the checkout -> place in the site."""
    kept = {f"docs/{page.name}": page.name for page in sorted((ROOT / "docs").glob("*.md"))}
    return kept | ELSEWHERE


def places() -> dict[str, str]:
    """Valid link targets by path in the checkout: pages, their folders, .proto files."""
    folders = {
        path.removesuffix("/README.md"): place
        for path, place in ELSEWHERE.items()
        if path.endswith("/README.md")
    }
    protos = {
        f"protos/eldr/v1/{path.name}": f"reference/{path.stem}.md"
        for path in (ROOT / "protos/eldr/v1").glob("*.proto")
    }
    return {**pages(), **folders, **protos, **DESCRIBED}


def outside_fences(text: str, change: Callable[[str], str]) -> Iterator[str]:
    """A page's lines, changed outside code; a fence's file name becomes its title."""
    closing = None
    previous = ""
    for line in text.splitlines():
        fence = FENCE.match(line)
        if closing:
            if line.strip() == closing:
                closing = None
        elif fence:
            indent, closing, language, name = fence.groups()
            title = f' title="{name}"' if name and "." in name else ""
            line = f"{indent}{closing}{language}{title}"
        else:
            # GitHub's Markdown lets a list follow a paragraph without an empty line.
            paragraph = previous.strip() and not previous.startswith(" ")
            if LIST.match(line) and paragraph and not LIST.match(previous):
                yield ""
            line = change(line)
        previous = line
        yield line


def laid_out(path: str, place: str, known: dict[str, str], sources: set[str]) -> str:
    """The page with links rewritten for its place; adds the files it links to to `sources`."""

    def link(match: re.Match[str]) -> str:
        code, before, target, after = match.groups()
        if code:  # in a table GitHub needs the bar escaped; others show the backslash
            return code.replace("\\|", "|") if match.string.startswith("|") else code
        if re.match(r"https?:|mailto:|#", target):
            return match[0]
        file, hash_, anchor = target.partition("#")
        full = os.path.normpath(os.path.join(os.path.dirname(path), file))
        if not (ROOT / full).exists():
            sys.exit(f"{path}: {target} leads nowhere")
        if full in known:
            to = known[full]
        elif full.startswith("docs/pictures/"):
            to = full.removeprefix("docs/")
        else:
            sources.add(full)
            to = f"source/{full}.md"
        return before + os.path.relpath(to, os.path.dirname(place) or ".") + hash_ + anchor + after

    text = (ROOT / path).read_text("utf-8")
    return "\n".join(outside_fences(text, lambda line: LINK.sub(link, line))) + "\n"


def source_page(path: str) -> str:
    """A page that shows a file, or lists a folder's; excluded from search."""
    head = f"---\nsearch:\n  exclude: true\n---\n\n# {path}\n\n"
    full = ROOT / path
    if full.is_dir():
        return head + "".join(f"- `{child.name}`\n" for child in sorted(full.iterdir()))
    text = full.read_text("utf-8")
    fence = "`" * (3 + max(map(len, re.findall("`+", text)), default=0))
    return f"{head}{fence}{LANGUAGES.get(full.suffix, 'text')}\n{text}{fence}\n"


def lay_out(into: Path) -> None:
    """Write every page of the site as Markdown into a folder."""
    known, sources = places(), set[str]()
    written = {place: laid_out(path, place, known, sources) for path, place in pages().items()}
    written |= {f"source/{path}.md": source_page(path) for path in sorted(sources)}
    written |= {f"reference/{name}": text for name, text in docs_reference.pages().items()}
    for place, text in written.items():
        (into / place).parent.mkdir(parents=True, exist_ok=True)
        (into / place).write_text(text, "utf-8")
    shutil.copytree(ROOT / "docs/pictures", into / "pictures")
    for name in ("site.css", "iframe-worker.js"):
        shutil.copy(ROOT / "docs" / name, into)


def navigation() -> list[str]:
    """The pages that the site's navigation names, in its order."""

    def walk(entry: object) -> Iterator[str]:
        if isinstance(entry, str):
            yield entry
        elif isinstance(entry, dict):
            for value in entry.values():
                yield from walk(value)
        elif isinstance(entry, list):
            for each in entry:
                yield from walk(each)

    return list(walk(tomllib.loads(CONFIG.read_text())["project"]["nav"]))


def build(folder: Path) -> None:
    """Lay the pages out in a folder's `pages` and build its `site`; exit on faults."""
    pages, site = folder / "pages", folder / "site"
    for old in (pages, site):
        shutil.rmtree(old, ignore_errors=True)
    lay_out(pages)
    named = set(navigation())
    written = {str(page.relative_to(pages)) for page in pages.rglob("*.md")}
    if wrong := sorted(named ^ {page for page in written if not page.startswith("source/")}):
        sys.exit(f"in the nav of {CONFIG.name} or in the site alone: {', '.join(wrong)}")
    shutil.copy(CONFIG, folder)
    command = [sys.executable, "-m", "zensical", "build", "--strict", "--clean", "-f", CONFIG.name]
    built = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    if built.returncode:
        said, *_ = re.sub(r"\x1b\[[\d;]*m", "", built.stdout + built.stderr).partition("Traceback")
        sys.exit(f"the site has faults:\n{said}")


if __name__ == "__main__":
    build(ROOT / "build")
    print("build/site/index.html")
