"""Files that a configuration names: found beside it, and judged before anything starts."""

import shutil
from pathlib import Path

import pytest

from llmgw import cli, config
from llmgw.errors import ConfigError

CA_FILE = Path(__file__).with_name("own-ca.pem")  # self-signed, for no host; its key was thrown away
TEXT = """
providers:
  own: {dialect: openai, base_url: "https://own.example/v1", tls: {ca_file: own-ca.pem}}
models: {"*": {targets: [{provider: own}]}}
tenants: {demo: {keys: [{name: demo, key: sk-demo}]}}
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "gateway.yaml"
    path.write_text(TEXT)
    return path


def test_an_authority_beside_the_file_is_found_from_anywhere(path: Path) -> None:
    shutil.copy(CA_FILE, path.with_name("own-ca.pem"))
    tls = config.load_file(path, {}).providers["own"].tls
    assert tls == config.Tls(ca_file=str(path.with_name("own-ca.pem")), verify=True)


@pytest.mark.parametrize(
    "content", [b"", b"no certificate", b"-----BEGIN CERTIFICATE-----\nx\n", bytes(range(256))]
)
def test_what_holds_no_certificate_is_refused(path: Path, content: bytes) -> None:
    path.with_name("own-ca.pem").write_bytes(content)
    with pytest.raises(ConfigError, match="expected a readable PEM file with at least one certificate"):
        config.load_file(path, {})


def test_checking_a_file_says_what_loading_it_would(path: Path) -> None:
    with pytest.raises(ConfigError) as refusal:
        config.load_file(path, {})
    assert config.check(path, {}).problems == refusal.value.problems
    assert [line.split(": ")[1] for line in refusal.value.problems] == ["providers.own.tls.ca_file"]
    shutil.copy(CA_FILE, path.with_name("own-ca.pem"))
    assert config.check(path, {}).problems == []


def test_the_authorities_of_redis_are_a_file_like_any_other(path: Path) -> None:
    redis = "redis: {url: 'rediss://:S3cret@h?ssl_ca_certs=own-ca.pem'}"
    path.write_text(TEXT.replace(", tls: {ca_file: own-ca.pem}", "") + redis)
    problems = config.check(path, {}).problems
    assert [line.split(": ", 1)[1] for line in problems] == [
        "redis.url: found <hidden>, expected in ssl_ca_certs a readable PEM file with at least one certificate"
    ]
    shutil.copy(CA_FILE, path.with_name("own-ca.pem"))
    tree = config.load_file(path, {})
    address = config.parse_redis_url(tree.redis.url)
    assert (address.ssl_ca_certs, address.password) == (str(path.with_name("own-ca.pem")), "S3cret")


def test_the_command_prints_notices_and_is_content(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "gateway.yaml"
    path.write_text("""
providers: {mock: {dialect: mock, limits: {rpm: 0}}}
models: {mock: {targets: [{provider: mock}]}}
tenants: {demo: {keys: [{name: demo, key: sk-demo}]}}
""")
    assert cli.main(["check", str(path)]) == 0
    notice = f"{path}:2: providers.mock.limits.rpm: notice: 0 refuses every request"
    assert capsys.readouterr().out.splitlines() == [notice, f"{path}: good"]
    path.write_text(path.read_text().replace("sk-demo", "''"))
    assert cli.main(["check", str(path)]) == 1
    assert capsys.readouterr().out.splitlines()[0] == notice
