"""The lines in the Go client's README place a request with the real daemon."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest
from daemon import running_daemon
from languages import needs_go
from wire import Client

GO = Path(__file__).parents[2] / "clients/go"
PROGRAM = """
package main

import (
	"context"
	"fmt"
	"os"
	"time"

	eldr "eldr.internal/client"
	"eldr.internal/client/eldrpb"
)

func decodeAt(url string, rank uint32) error {
	fmt.Println(url, rank)
	return nil
}

func run(ctx context.Context, id string) error {
%s
	return nil
}

func main() {
	if err := run(context.Background(), "r"); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}
"""
MOD = """
module example.test/readme

go 1.24

require eldr.internal/client v0.0.0

replace eldr.internal/client => %s
"""


@pytest.mark.timeout(900)  # gRPC is compiled, once
@needs_go
def test_the_first_placement_takes_ten_lines(tmp_path):
    [lines] = re.findall(r"```go\n(.*?)```", (GO / "README.md").read_text(), re.S)
    assert len(lines.splitlines()) <= 10
    with running_daemon() as daemon, Client(daemon.grpc) as client:
        client.register("qwen3-30b-a3b", "d0")
        given = lines.replace("127.0.0.1:50051", daemon.grpc)
        # A busy machine may take longer than a scheduler would wait.
        given = given.replace("Options{}", "Options{Timeout: 30 * time.Second}")
        (tmp_path / "main.go").write_text(PROGRAM % given)
        (tmp_path / "go.mod").write_text(MOD % GO)
        shutil.copy(GO / "go.sum", tmp_path)
        for command in (["go", "mod", "tidy"], ["go", "run", "."]):
            done = subprocess.run(
                command, cwd=tmp_path, capture_output=True, text=True, timeout=600, check=False
            )
            assert done.returncode == 0, done.stderr
        assert done.stdout.split() == ["http://d0", "0"]
        assert client.booked("qwen3-30b-a3b") == 0
