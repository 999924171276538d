"""The lines in the Rust client's README place a request with the real daemon."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest
from daemon import running_daemon
from languages import cargo_into, needs_cargo, one_build
from wire import Client

RUST = Path(__file__).parents[2] / "clients/rust"
PROGRAM = """
use std::error::Error;
use std::time::Duration;

use eldr_client::{Client, Options, RouteRequest};

async fn decode_at(url: &str, rank: u32) -> Result<String, Box<dyn Error>> {
    Ok(format!("{url} {rank}"))
}

async fn run(id: String) -> Result<(), Box<dyn Error>> {
%s
    println!("{answer}");
    Ok(())
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn Error>> {
    run("r".into()).await
}
"""
MANIFEST = """
[package]
name = "readme"
edition = "2024"

[dependencies]
eldr-client = { path = "%s" }
tokio = { version = "1", features = ["macros", "rt"] }

[profile.dev]
debug = 0
"""


@pytest.mark.timeout(900)  # tonic is compiled, once
@needs_cargo
def test_the_first_placement_takes_ten_lines(tmp_path):
    [lines] = re.findall(r"```rust\n(.*?)```", (RUST / "README.md").read_text(), re.S)
    assert len(lines.splitlines()) <= 10
    with running_daemon() as daemon, Client(daemon.grpc) as client:
        client.register("qwen3-30b-a3b", "d0")
        given = lines.replace("127.0.0.1:50051", daemon.grpc)
        # A busy machine may take longer than a scheduler would wait.
        patient = "Options { timeout: Duration::from_secs(30), ..Options::default() }"
        given = given.replace("Options::default()", patient)
        (tmp_path / "src").mkdir()
        (tmp_path / "src/main.rs").write_text(PROGRAM % given)
        (tmp_path / "Cargo.toml").write_text(MANIFEST % RUST)
        shutil.copy(RUST / "Cargo.lock", tmp_path)
        with one_build("rust") as built:
            done = subprocess.run(
                ["cargo", "run", "--quiet"],
                env=cargo_into(built),
                cwd=tmp_path,
                capture_output=True,
                text=True,
                timeout=840,
                check=False,
            )
        assert done.returncode == 0, done.stderr
        assert done.stdout.split() == ["http://d0", "0"]
        assert client.booked("qwen3-30b-a3b") == 0
