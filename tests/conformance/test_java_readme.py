"""The lines in the Java client's README place a request with the real daemon."""

import re
import subprocess
from pathlib import Path

import pytest
from daemon import running_daemon
from languages import needs_maven
from programs import java_classpath
from wire import Client

README = Path(__file__).parents[2] / "clients/java/README.md"
PROGRAM = """
import eldr.client.Held;
import eldr.client.RouterClient;
import eldr.v1.RouteRequest;
import java.time.Duration;

class Readme {
  static void decodeAt(String url, int rank) {
    System.out.println(url + " " + rank);
  }

  public static void main(String[] arguments) {
    String id = "r";
%s
  }
}
"""


@pytest.mark.timeout(900)  # messages are generated and compiled, once
@needs_maven
def test_the_first_placement_takes_ten_lines(tmp_path):
    [lines] = re.findall(r"```java\n(.*?)```", README.read_text(), re.S)
    assert len(lines.splitlines()) <= 10
    with running_daemon() as daemon, Client(daemon.grpc) as client:
        client.register("qwen3-30b-a3b", "d0")
        given = lines.replace(
            '"127.0.0.1:50051")', f'"{daemon.grpc}").timeout(Duration.ofSeconds(30))'
        )
        program = tmp_path / "Readme.java"
        program.write_text(PROGRAM % given.replace("ofSeconds(2)", "ofSeconds(30)"))
        done = subprocess.run(
            ["java", "-cp", java_classpath(), program],
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        assert done.stdout.split() == ["http://d0", "0"]
        assert client.booked("qwen3-30b-a3b") == 0
