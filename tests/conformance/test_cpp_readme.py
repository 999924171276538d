"""The lines in the C++ client's README place a request with the real daemon."""

import re
import subprocess
from pathlib import Path

import pytest
from daemon import running_daemon
from languages import needs_cpp
from programs import build_cpp, run
from wire import Client

README = Path(__file__).parents[2] / "clients/cpp/README.md"
PROGRAM = """
#include <eldr/client.h>

#include <iostream>

using namespace std::chrono_literals;

void decode_at(const std::string& url, unsigned rank) { std::cout << url << ' ' << rank; }

int main() {
  const std::string id = "r";
%s
}
"""


def code(language):
    return re.findall(rf"```{language}\n(.*?)```", README.read_text(), re.S)


@pytest.mark.timeout(900)  # gRPC's headers are compiled
@needs_cpp
def test_the_first_placement_takes_ten_lines(tmp_path):
    lines, cmake = code("cpp")[0], code("cmake")[0]
    assert len(lines.splitlines()) <= 10
    run("cmake", "--install", build_cpp(), "--prefix", tmp_path / "installed", cwd=tmp_path)
    with running_daemon() as daemon, Client(daemon.grpc) as client:
        client.register("qwen3-30b-a3b", "d0")
        # A busy machine may take longer than a scheduler would wait.
        given = lines.replace('"127.0.0.1:50051"', f'"{daemon.grpc}", {{.timeout = 30s}}')
        (tmp_path / "scheduler.cpp").write_text(PROGRAM % given)
        head = "cmake_minimum_required(VERSION 3.20)\nproject(scheduler CXX)\n"
        add = "add_executable(scheduler scheduler.cpp)\n"
        (tmp_path / "CMakeLists.txt").write_text(head + add + cmake)
        found = f"-DCMAKE_PREFIX_PATH={tmp_path / 'installed'}"
        run("cmake", "-S", ".", "-B", "built", found, cwd=tmp_path)
        run("cmake", "--build", "built", cwd=tmp_path)
        said = subprocess.run(
            tmp_path / "built/scheduler", capture_output=True, text=True, timeout=60, check=True
        )
        assert said.stdout.split() == ["http://d0", "0"]
        assert client.booked("qwen3-30b-a3b") == 0
