from pathlib import Path

import pytest

from eldr_service.core.geometry import ModelGeometry
from eldr_service.server.config import Address, Settings, load_settings


@pytest.fixture(autouse=True)
def _no_variables(monkeypatch):
    for field in Settings.model_fields:
        monkeypatch.delenv(f"ELDR_{field.upper()}", raising=False)


@pytest.fixture
def write(tmp_path):
    def write(name: str, text: str = "x") -> str:
        path = tmp_path / name
        path.write_text(text)
        return str(path)

    return write


@pytest.fixture
def refusal(capsys):
    def refusal(*argv: str) -> str:
        with pytest.raises(SystemExit) as stopped:
            load_settings(list(argv))
        assert stopped.value.code == 2
        out, err = capsys.readouterr()
        assert not out
        assert "Traceback" not in err
        assert "pydantic" not in err
        return err.strip()

    return refusal


def test_runs_without_any_argument(monkeypatch):
    monkeypatch.setenv("XDG_STATE_HOME", "/somewhere")
    settings = load_settings([])
    assert str(settings.listen) == "127.0.0.1:50051"
    assert str(settings.http) == "127.0.0.1:9464"
    assert settings.state == Path("/somewhere/eldr")
    assert settings.policy == "locality-band"


def test_state_falls_back_to_the_home_directory(monkeypatch):
    monkeypatch.delenv("XDG_STATE_HOME", raising=False)
    assert load_settings([]).state == Path.home() / ".local/state/eldr"


def test_flags_beat_variables_beat_the_file(monkeypatch, write):
    file = write("eldr.toml", "alternates = 5\nlease-ttl = 60\nlog_format = 'json'\n")
    monkeypatch.setenv("ELDR_CONFIG", file)
    monkeypatch.setenv("ELDR_ALTERNATES", "6")
    monkeypatch.setenv("ELDR_LEASE_TTL", "70")
    settings = load_settings(["--lease-ttl", "80"])
    assert (settings.lease_ttl, settings.alternates, settings.log_format) == (80, 6, "json")


def test_an_empty_variable_is_not_set(monkeypatch):
    monkeypatch.setenv("ELDR_TLS_CERT", "")
    assert load_settings([]).tls_cert is None


def test_every_option_is_a_flag_and_is_told(capsys):
    with pytest.raises(SystemExit) as stopped:
        load_settings(["--help"])
    assert stopped.value.code == 0
    told = capsys.readouterr().out
    for field in Settings.model_fields:
        assert field == "models" or f"--{field.replace('_', '-')} " in told
    assert "127.0.0.1:50051" in told


def test_version(capsys):
    with pytest.raises(SystemExit) as stopped:
        load_settings(["--version"])
    assert stopped.value.code == 0
    assert capsys.readouterr().out.startswith("eldr-server ")


@pytest.mark.parametrize(
    ("argv", "told"),
    [
        (["--log-formt", "json"], "--log-formt: unknown option; did you mean --log-format?"),
        (["--log-f", "json"], "--log-f: unknown option"),
        (["serve"], "serve: unexpected argument"),
        (["--listen"], "--listen: expected one argument"),
        (["--log-format", "xml"], "--log-format: expected 'console' or 'json', found 'xml'"),
        (["--listen", "50051"], "--listen: expected HOST:PORT"),
        (["--http", "localhost:70000"], "--http: expected HOST:PORT with a port from 0 to 65535"),
        (["--alternates", "few"], "--alternates: expected integer, found 'few'"),
        (["--lease-ttl", "0.5"], "--lease-ttl: expected greater than or equal to 1, found '0.5'"),
        (["--report-limit", "nan"], "--report-limit: expected"),
        (["--signature-memory-bytes", "much"], "--signature-memory-bytes: expected bytes such as"),
        (["--policy", "localty"], "locality-band, marginal-cost, power-of-two-choices"),
        (["--policy", "localty"], "did you mean locality?"),
        (["--policy", "locality-band:tau"], "--policy: expected NAME or NAME:key=value"),
        (["--policy", "locality-band:tau=1,tau=2"], "--policy: expected each parameter once"),
        (["--tokens", "missing.toml"], "--tokens: expected a file that exists and can be read"),
        (["--jwks", "missing.json"], "--jwks: expected a file that exists"),
        (["--jwks", "http://issuer.test/keys"], "--jwks: expected a file, an https:// URL"),
        (["--jwks", "http://127.0.0.1@issuer.test/"], "--jwks: expected a file, an https:// URL"),
        (["--jwks", "https://me:secret@issuer.test/"], "--jwks: expected a file, an https:// URL"),
        (["--jwks", "https://issuer.test/keys"], "--jwks needs --jwt-issuer and --jwt-audience"),
        (["--jwt-issuer", "i"], "--jwt-issuer and --jwt-audience need --jwks"),
        (["--kubernetes", "decode"], "--kubernetes: expected NAMESPACE/SERVICE or NAMESPACE/LABEL"),
        (["--kubernetes", "a.b/decode"], "--kubernetes: expected NAMESPACE/SERVICE or"),
        (["--kubernetes", "ns/decode:model"], "--kubernetes: expected NAMESPACE/SERVICE or"),
        (["--kubernetes", "ns/d;"], "--kubernetes: expected NAMESPACE/SERVICE or NAMESPACE/LABEL"),
        (["--kubernetes", "ns/d:modle=m"], "found modle; did you mean model?"),
        (["--kubernetes", "ns/d:model=m,model=n"], "--kubernetes: expected each key once"),
        (["--kubernetes", "ns/d:role=both"], "--kubernetes: expected role=decode or prefill"),
        (["--kubernetes", "ns/d:geometry=48"], "expected geometry=LAYERSxEXPERTSxTOP_K such as"),
        (["--kubernetes", "ns/d:geometry=48x8x9"], "--kubernetes: expected top_k=1 to 8"),
        (["--kubernetes", "ns/d:sequences=-1"], "--kubernetes: expected sequences=0 to"),
        (["--kubernetes-api", "https://h"], "--kubernetes-api needs --kubernetes"),
        (["--kubernetes-api", "http://10.0.0.1"], "--kubernetes-api: expected an https:// URL"),
        (["--dns", "decode.test:port=80"], "--dns: expected the key model=NAME"),
        (
            ["--dns", "decode.test:model=m"],
            "--dns: expected port=1 to 65535 for a name without SRV",
        ),
        (["--dns", "decode.test:model=m,port=http"], "--dns: expected port=1 to 65535 for a name"),
        (
            ["--dns", "_http._tcp.a.test:model=m,port=1"],
            "--dns: expected no port for a name of SRV",
        ),
        (["--dns-server", "127.0.0.1:53"], "--dns-server needs --dns"),
        (["--dns-server", "ns.test:53"], "--dns-server: expected IP:PORT"),
        (["--dns-interval", "0"], "--dns-interval: expected greater than 0"),
        (["--config", "missing.toml"], "configuration missing.toml: expected a file"),
        (["--report-limit", "1", "--report-interval", "2"], "--report-limit must not be shorter"),
    ],
)
def test_a_wrong_option_names_itself_and_what_was_expected(refusal, argv, told):
    assert told in refusal(*argv)


def test_every_wrong_option_is_named_at_once(refusal, monkeypatch):
    monkeypatch.setenv("ELDR_LOG_LEVEL", "loud")
    told = refusal("--alternates", "-1", "--max-models", "0").splitlines()
    assert len(told) == 3
    assert any(line.startswith("eldr-server: ELDR_LOG_LEVEL: expected 'debug'") for line in told)


def test_a_file_is_checked_like_flags(refusal, write):
    unknown = write("unknown.toml", "log_fromat = 'json'")
    assert f"log_fromat in {unknown}: unknown setting; did you mean log_format?" in refusal(
        "--config", unknown
    )
    wrong = write("wrong.toml", "alternates = 'few'")
    assert f"alternates in {wrong}: expected integer, found 'few'" in refusal("--config", wrong)
    broken = write("broken.toml", "alternates = ")
    assert f"configuration {broken}: Invalid value" in refusal("--config", broken)
    nested = write("nested.toml", "config = 'other.toml'")
    assert "config: a file cannot name another file" in refusal("--config", nested)


def test_models_are_declared_in_the_file(refusal, write):
    table = "[[models]]\nname = 'm'\nnum_layers = 48\nnum_experts = 128\ntop_k = 8\n"
    (model,) = load_settings(["--config", write("good.toml", table)]).models
    assert (model.name, model.geometry) == ("m", ModelGeometry(48, 128, 8))
    assert "models: a model is declared twice" in refusal(
        "--config", write("twice.toml", table * 2)
    )
    assert "top_k: expected 1 to 128, found 256" in refusal(
        "--config", write("impossible.toml", table.replace("top_k = 8", "top_k = 256"))
    )
    typo = write("typo.toml", table.replace("num_experts", "num_expert"))
    told = refusal("--config", typo)
    assert f"models[0].num_experts in {typo}: missing" in told
    assert f"models[0].num_expert in {typo}: unknown key; did you mean num_experts?" in told


def test_tls_options_need_each_other(refusal, write):
    pem = write("a.pem")
    assert "--tls-key needs --tls-cert" in refusal("--tls-key", pem)
    assert "--tls-cert needs --tls-key" in refusal("--tls-cert", pem)
    assert "--tls-client-ca needs --tls-cert" in refusal("--tls-client-ca", pem)


def test_beyond_loopback_strangers_are_kept_out(refusal, write):
    beyond = ["--listen", "0.0.0.0:50051"]
    tls = ["--tls-cert", write("c.pem"), "--tls-key", write("k.pem")]
    tokens = ["--tokens", write("t.toml")]
    assert "without credentials anyone" in refusal(*beyond)
    assert "without credentials anyone" in refusal(*beyond, *tls)
    assert "tokens could be intercepted" in refusal(*beyond, *tokens)
    for enough in (
        ["--insecure"],
        [*tokens, "--insecure"],
        [*tls, *tokens],
        [*tls, "--tls-client-ca", write("ca.pem")],
    ):
        assert not load_settings(beyond + enough).listen.loopback
    assert load_settings(["--listen", "[::1]:0", *tokens]).listen == Address("::1", 0)


def test_state_in_memory_or_in_a_directory(refusal, tmp_path, write):
    assert load_settings(["--state", ":memory:"]).state is None
    assert load_settings(["--state", str(tmp_path / "new")]).state == tmp_path / "new"
    assert "--state: expected a directory" in refusal("--state", write("file"))


def test_sizes_have_units():
    settings = load_settings(["--signature-memory-bytes", "64MiB"])
    assert settings.signature_memory_bytes == 64 << 20


@pytest.mark.parametrize("text", ["127.0.0.1:1", "[::1]:1", "localhost:1", "127.8.0.1:0"])
def test_loopback_addresses(text):
    address = Address.parse(text)
    assert address.loopback
    assert str(address) == text


@pytest.mark.parametrize("text", ["0.0.0.0:1", "[::]:1", "example.org:1", "10.0.0.1:1"])
def test_addresses_beyond_loopback(text):
    assert not Address.parse(text).loopback
