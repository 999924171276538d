"""The page as a PDF, printed with an installed Chromium: tagged, with title and date."""

import os
import shutil
import subprocess
from pathlib import Path
from tempfile import TemporaryDirectory

BROWSERS = (
    "chromium",
    "chromium-browser",
    "google-chrome",
    "google-chrome-stable",
    "microsoft-edge",
)
SECONDS = 120


def browser() -> str | None:
    """The first browser found on the PATH."""
    return next(filter(None, map(shutil.which, BROWSERS)), None)


def paper(page: str, program: str) -> bytes:
    """Print a page on A4.

    Raises
    ------
    OSError
        The program failed, or took more than two minutes.
    """
    with TemporaryDirectory() as folder:
        html, pdf = Path(folder, "report.html"), Path(folder, "report.pdf")
        html.write_text(page, "utf-8")
        command = [
            *(program, "--headless", "--disable-gpu", "--no-pdf-header-footer"),
            *("--export-tagged-pdf", "--generate-pdf-document-outline"),
            f"--user-data-dir={folder}/profile",
            f"--print-to-pdf={pdf}",
            html.as_uri(),
        ]
        if os.geteuid() == 0:
            command.insert(1, "--no-sandbox")  # which Chromium requires of root
        try:
            done = subprocess.run(command, capture_output=True, timeout=SECONDS, check=False)
        except subprocess.TimeoutExpired as error:
            raise OSError(f"{program} took more than {SECONDS} s to print") from error
        if not pdf.is_file():
            said = done.stderr.decode(errors="replace").strip().splitlines()
            raise OSError(f"{program} printed nothing: {said[-1] if said else done.returncode}")
        return pdf.read_bytes()
