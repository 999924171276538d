"""A project that uses the Node client as published, with only its dependencies."""

import json
import subprocess
import tarfile
from pathlib import Path

CONFIGURATION = {
    "compilerOptions": {
        "strict": True,
        "target": "ES2022",
        "module": "NodeNext",
        "lib": ["ES2022", "ESNext.Disposable"],
        "types": ["node"],
        "exactOptionalPropertyTypes": True,
    },
    "files": ["main.ts"],
}


class NodeConsumer:
    """TypeScript beside the packed package, compiled strictly, with all declarations checked."""

    def __init__(self, package: Path, folder: Path) -> None:
        self._package, self.folder = package, folder
        packed = run("npm", "pack", "--json", "--ignore-scripts", "--pack-destination", folder,
                     cwd=package)  # fmt: skip
        [self.packed] = json.loads(packed)
        modules = folder / "node_modules"
        with tarfile.open(folder / self.packed["filename"]) as archive:
            archive.extractall(modules, filter="data")
        (modules / "package").rename(modules / self.packed["name"])
        for path, entry in json.loads((package / "package-lock.json").read_text())[
            "packages"
        ].items():
            is_types = path in ("node_modules/@types/node", "node_modules/undici-types")
            if path.startswith("node_modules/") and (is_types or not entry.get("dev")):
                link = folder / path
                link.parent.mkdir(exist_ok=True)
                link.symlink_to(package / path)
        (folder / "package.json").write_text('{"type": "module"}')
        (folder / "tsconfig.json").write_text(json.dumps(CONFIGURATION))

    def compile(self, source: str) -> None:
        """Compile the source; fails with tsc's message."""
        (self.folder / "main.ts").write_text(source)
        run(self._package / "node_modules/.bin/tsc", cwd=self.folder)

    def run(self, *arguments: str) -> str:
        """Run the compiled program; returns its output."""
        return run("node", "main.js", *arguments, cwd=self.folder)


def run(*command: str | Path, cwd: Path) -> str:
    done = subprocess.run(
        command, cwd=cwd, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout
