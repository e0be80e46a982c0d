"""Redis: what its variables mean, which are refused, and LiteLLM's configuration with it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import redis.connection
import yaml

from litellm_systemd.env.redis import Redis, find_redis, parse_url
from litellm_systemd.env.settings import Settings, build_settings, parse_dotenv
from litellm_systemd.errors import InputError
from litellm_systemd.gateway.config import parse_config, read_config
from litellm_systemd.gateway.redis_settings import find_used_redis
from litellm_systemd.host.layout import Layout
from litellm_systemd.install.render import render_service
from litellm_systemd.runtime.options import load_configuration

MODELS = "model_list: [{model_name: demo, litellm_params: {model: openai/demo, mock_response: hello}}]\n"
ENVIRON = {"LITELLM_MASTER_KEY": "sk-test-0123456789abcdef"}
IAM = {
    "REDIS_AWS_IAM_AUTH": "true",
    "REDIS_AWS_IAM_USER_NAME": "litellm",
    "REDIS_AWS_IAM_CACHE_NAME": "Gateway",
    "REDIS_AWS_IAM_REGION": "eu-central-1",
}


def settings(env: str) -> Settings:
    return build_settings(parse_dotenv(env, ".env"), installed={}, new_key=lambda: "sk-made")


@pytest.mark.parametrize(
    "url",
    [
        "redis://localhost",
        "redis://:p%40ss%2F@cache.example:6380/3",
        "rediss://user:pass@cache.example?ssl_ca_certs=/etc/ca.pem&db=4",
        "rediss://cache.example/?ssl_cert_reqs=none&ssl_check_hostname=false",
        "redis://[::1]:6380",
        "redis://cache.example:6380/3?client_name=me@here",
        "redis://[::1]:6380?client_name=me@here",
        "unix://:pw@/run/redis/redis.sock?db=2",
    ],
)
def test_url_as_the_library_reads_it(url: str) -> None:
    """A URL means to the installer what it means to the library that LiteLLM connects with."""
    found, theirs = parse_url(url), redis.connection.parse_url(url)  # type: ignore[no-untyped-call]
    assert (found.socket or found.host) == theirs.get("path", theirs.get("host"))
    assert (found.port, found.database) == (theirs.get("port", 6379), theirs.get("db", 0))
    assert (found.user, found.password) == (theirs.get("username", ""), theirs.get("password", ""))
    assert found.is_encrypted == (theirs.get("connection_class") is redis.connection.SSLConnection)
    assert found.certificate_file == theirs.get("ssl_ca_certs", "")
    assert found.certificate_check == theirs.get("ssl_cert_reqs", "required")
    assert found.checks_name == theirs.get("ssl_check_hostname", True)
    assert not found.password or found.password not in repr(found)


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({"REDIS_HOST": "::1"}, Redis("::1")),
        (
            {"REDIS_HOST": "h", "REDIS_PORT": "1", "REDIS_USERNAME": "u", "REDIS_PASSWORD": "p@/", "REDIS_DB": "2"},
            Redis("h", 1, "u", "p@/", 2),
        ),
        (
            {"REDIS_HOST": "h", "REDIS_SSL": "True", "REDIS_SSL_CA_CERTS": "/ca.pem", "REDIS_SSL_CERT_REQS": "none"},
            Redis("h", is_encrypted=True, certificate_file="/ca.pem", certificate_check="none"),
        ),
        (
            {"REDIS_CLUSTER_NODES": '[{"host": "a", "port": "1"}, {"host": "b", "port": 2}]', "REDIS_PASSWORD": "p"},
            Redis("a", 1, password="p", is_cluster=True, others=(("b", 2),)),
        ),
    ],
)
def test_single_variables(values: dict[str, str], expected: Redis) -> None:
    """REDIS_HOST and the variables next to it, or the nodes of a cluster, say the same as a URL."""
    found, name = find_redis(values) or (None, "")
    assert (found, name) == (expected, next(iter(values)))


def test_token_of_elasticache() -> None:
    """With IAM authentication the login is a token for the cache, whose name AWS knows in small letters alone."""
    found, _ = find_redis({"REDIS_URL": "rediss://cache.example", **IAM}) or (Redis(""), "")
    assert found.iam is not None
    assert (found.iam.user, found.iam.cache, found.iam.region) == ("litellm", "gateway", "eu-central-1")


@pytest.mark.parametrize(
    ("env", "message", "remedy"),
    [
        ("REDIS_URL=redis://:a@b@h", r"has @ in it, probably in the password$", "REDIS_HOST and REDIS_PASSWORD"),
        ("REDIS_URL=redis://:a/b@h", r"has / in it", "/ is %2F"),
        ("REDIS_URL=redis://secret@h", r"has a user and no password$", "with the colon"),
        ("REDIS_URL=http://h", r"supports redis://, rediss:// and unix://, not http://$", ""),
        ("REDIS_URL=valkeys://h", r"does not know valkeys://$", "rediss:// for Valkey"),
        ("REDIS_URL=h:6379", r"is not a URL$", "redis://:PASSWORD@HOST:6379/0"),
        ("REDIS_URL=redis://:pw@", r"has no host$", ""),
        ("REDIS_URL=redis://h:70000", r"has no valid host and port$", ""),
        ("REDIS_URL=redis://a,b", r"names several hosts$", "REDIS_CLUSTER_NODES"),
        ("REDIS_URL=redis://h/cache", r"has cache where the number of the database is$", ""),
        ("REDIS_URL=unix://h", r"names no UNIX socket$", "unix:///run"),
        ("REDIS_URL=redis://h\nREDIS_HOST=h", r"REDIS_URL and REDIS_HOST are both set", "Remove all but one"),
        ("REDIS_URL=redis://h\nREDIS_PASSWORD=x", r"REDIS_PASSWORD has no effect with REDIS_URL$", "into the URL"),
        ("\nREDIS_HOST=h:6379", r"is not the name of a host$", "REDIS_PORT"),
        ("REDIS_HOST=h\nREDIS_PORT=0", r"REDIS_PORT=0 is not a whole number", "6379"),
        ("REDIS_HOST=h\nREDIS_SSL=on", r"REDIS_SSL=on is neither true nor false$", ""),
        ("REDIS_HOST=h\nREDIS_SSL_CA_CERTS=/ca", r"REDIS_SSL_CA_CERTS needs TLS$", "REDIS_SSL=true"),
        ("REDIS_HOST=h\nREDIS_SSL_CERT_REQS=maybe\nREDIS_SSL=true", r"is none of required, optional and none$", ""),
        ("\nREDIS_CLUSTER_NODES=h", r"is not a list of nodes in JSON$", '"port": 6379'),
        (
            '\nREDIS_CLUSTER_NODES=\'[{"host":"h","port":1,"password":"secret"}]\'',
            r"has password in a node, with which LiteLLM does not start$",
            "the login as REDIS_USERNAME and REDIS_PASSWORD",
        ),
        ("\nREDIS_SENTINEL_NODES='[[\"h\", 1]]'", r"needs REDIS_SERVICE_NAME as well$", "mymaster"),
        ('REDIS_CLUSTER_NODES=\'[{"host":"h","port":1}]\'\nREDIS_DB=1', r"REDIS_DB has no effect with", ""),
        ("REDIS_HOST=h\nREDIS_AWS_IAM_AUTH=true", r"needs REDIS_AWS_IAM_USER_NAME and REDIS_AWS_IAM_CACHE_NAME", ""),
    ],
)
def test_refused(env: str, message: str, remedy: str) -> None:
    """What LiteLLM cannot use, or what parts of it read differently, is refused with its line and a remedy."""
    with pytest.raises(InputError, match=message) as refused:
        settings(f"{env}\n")
    line = 1 if env.startswith("REDIS_URL") and "\n" not in env else 2
    assert refused.value.message.startswith(f".env:{line}: ")
    assert remedy in refused.value.hint
    assert "secret" not in refused.value.render()


def test_login_in_a_node_of_the_configuration() -> None:
    """A cluster that the configuration describes wrongly is refused with the keys of the configuration."""
    params = "{type: redis, startup_nodes: [{host: h, port: 1, password: x}]}"
    text = f"litellm_settings: {{cache: true, cache_params: {params}}}"
    with pytest.raises(InputError) as refused:
        find_used_redis(parse_config(f"{MODELS}{text}\n", "config.yaml"), ENVIRON)
    place = "config.yaml: litellm_settings.cache_params: startup_nodes"
    assert refused.value.message == f"{place} has password in a node, with which LiteLLM does not start"
    assert refused.value.hint == "Write host and port alone, and the login as username and password."


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"REDIS_AWS_IAM_REGION": "", "AWS_REGION_NAME": "eu-central-1"}, "needs a region, and LiteLLM does not use"),
        ({"REDIS_SSL": "false"}, "needs TLS"),
        ({"REDIS_PASSWORD": "x"}, "does not use the password"),
    ],
)
def test_refused_with_a_token(values: dict[str, str], message: str) -> None:
    """What stops LiteLLM with IAM authentication is refused: no TLS, no region. So is a password."""
    with pytest.raises(InputError, match=message):
        find_redis({"REDIS_HOST": "h", "REDIS_SSL": "true", **IAM, **values})


@pytest.mark.parametrize(
    ("env", "warnings"),
    [
        ("REDIS_URL=redis://:x@localhost", []),
        ("REDIS_URL=rediss://:x@cache.example", []),
        ("REDIS_URL=unix:///run/redis/redis.sock", []),
        ("REDIS_URL=aws-ssm:/gateway/redis\nAWS_REGION_NAME=eu-central-1", []),
        (
            "REDIS_HOST=10.0.0.7\nREDIS_PASSWORD=x",
            ["without TLS the password and cached responses cross the network"],
        ),
        ("REDIS_HOST=redis", ["If redis is a service of a compose file"]),
        ("REDIS_PASSWORD=x", ["REDIS_PASSWORD has no effect without REDIS_HOST"]),
        (
            'REDIS_SENTINEL_NODES=[["127.0.0.1",1]]\nREDIS_SERVICE_NAME=m',
            ["install and doctor do not connect to Sentinels"],
        ),
    ],
)
def test_warnings(env: str, warnings: list[str]) -> None:
    """A connection to another host without TLS, and what has no effect, is a warning with its line."""
    found = settings(f"{env}\n").warnings
    assert [message in line for message, line in zip(warnings, found, strict=True)] == [True] * len(warnings)
    assert all(line.startswith(".env:1: ") for line in found)


OPT_IN = {"type": "redis", "mode": "default_off"}


@pytest.mark.parametrize(
    ("values", "text", "added"),
    [
        pytest.param({}, "", None, id="no Redis"),
        pytest.param(
            {"REDIS_URL": "redis://:secret@localhost"},
            "litellm_settings: {drop_params: true}",
            {"litellm_settings": {"drop_params": True, "cache": True, "cache_params": OPT_IN}},
            id="a URL",
        ),
        pytest.param(
            {"REDIS_HOST": "h", "REDIS_PASSWORD": "secret"},
            "litellm_settings: {cache_params: {mode: default_on, ttl: 60}}",
            {"litellm_settings": {"cache": True, "cache_params": {**OPT_IN, "mode": "default_on", "ttl": 60}}},
            id="with parameters of the file",
        ),
        pytest.param({"REDIS_HOST": "h"}, "litellm_settings: {cache: true}", None, id="with a cache of the file"),
        pytest.param(
            {"REDIS_HOST": "h", "REDIS_PASSWORD": "secret"},
            "litellm_settings: {cache: false}",
            {
                "litellm_settings": {"cache": False},
                "general_settings": {"coordination_redis": {"host": "os.environ/REDIS_HOST"}},
            },
            id="no cache of responses",
        ),
        pytest.param(
            {"REDIS_URL": "redis://:secret@h"},
            "litellm_settings: {cache: true, cache_params: {type: local}}",
            {
                "litellm_settings": {"cache": True, "cache_params": {"type": "local"}},
                "general_settings": {"coordination_redis": {"url": "os.environ/REDIS_URL"}},
            },
            id="another cache of responses",
        ),
        pytest.param(
            {"REDIS_CLUSTER_NODES": '[{"host": "h", "port": 1}]'},
            "litellm_settings: {cache: false}",
            {
                "litellm_settings": {"cache": False},
                "general_settings": {"coordination_redis": {"startup_nodes": [{"host": "h", "port": 1}]}},
            },
            id="a cluster",
        ),
        pytest.param(
            {"REDIS_HOST": "h"}, "general_settings: {coordination_redis: {host: other}}", None, id="one of the file"
        ),
    ],
)
def test_configuration_with_redis(
    tmp_path: Path, values: dict[str, str], text: str, added: dict[str, Any] | None
) -> None:
    """LiteLLM gets the configuration with what connects it to Redis, and what the file sets itself stays.

    No secret is in it, the file does not change, and responses are cached only for requests that want it.
    """
    file = tmp_path / "config.yaml"
    file.write_text(f"{MODELS}{text}\n")
    before = file.read_text()
    loaded = load_configuration(file, {**ENVIRON, **values})
    served = loaded.texts[str(file)]
    assert yaml.safe_load(served) == {**yaml.safe_load(MODELS), **(added or yaml.safe_load(text) or {})}
    assert added is not None or served == before
    assert "secret" not in served
    assert file.read_text() == before


def test_nodes_of_a_drop_in(tmp_path: Path) -> None:
    """The service names the variable whose nodes it cannot read, also if no install has checked it."""
    (tmp_path / "mine.yml").write_text(f"{MODELS}litellm_settings: {{cache: false}}\n")
    with pytest.raises(InputError, match="REDIS_CLUSTER_NODES is not a list of nodes in JSON"):
        load_configuration(tmp_path / "mine.yml", {**ENVIRON, "REDIS_CLUSTER_NODES": "one"})


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", ("env.example", "REDIS_HOST")),
        (
            "general_settings: {coordination_redis: {url: os.environ/MINE}}",
            ("mine", "general_settings.coordination_redis"),
        ),
        (
            "litellm_settings: {cache: true, cache_params: {type: redis, host: h, x: 2026-01-01}}",
            ("h", "litellm_settings.cache_params"),
        ),
        ("litellm_settings: {cache: true, cache_params: {host: h}}", ("env.example", "REDIS_HOST")),
        ("router_settings: {redis_host: h, redis_port: 1}", ("env.example", "REDIS_HOST")),
    ],
)
def test_redis_in_use(tmp_path: Path, text: str, expected: tuple[str, str]) -> None:
    """The Redis that is checked is the one that LiteLLM uses: one of the configuration goes before the variables."""
    file = tmp_path / "config.yaml"
    file.write_text(f"{MODELS}{text}\n")
    values = {**ENVIRON, "REDIS_HOST": "env.example", "REDIS_PASSWORD": "x", "MINE": "redis://:y@mine"}
    found, place = find_used_redis(read_config(file), values) or (Redis(""), "")
    assert (found.host, place) == expected
    assert found.password == ("y" if found.host == "mine" else "x")


@pytest.mark.parametrize(
    "text", ["litellm_settings: {cache_params: {type: redis, host: h}}", "litellm_settings: {cache_params: x}"]
)
def test_redis_of_a_cache_that_is_off(tmp_path: Path, text: str) -> None:
    """Parameters of a cache that nothing turns on name no Redis that an install would have to reach."""
    file = tmp_path / "config.yaml"
    file.write_text(f"{MODELS}{text}\n")
    assert find_used_redis(read_config(file), ENVIRON) is None


@pytest.mark.parametrize(
    ("env", "is_after"),
    [
        ("", False),
        ("REDIS_HOST=localhost", True),
        ("REDIS_URL=unix:///run/redis/redis.sock", True),
        ("REDIS_HOST=cache.example", False),
        ("REDIS_URL=aws-ssm:/gateway/redis\nAWS_REGION_NAME=eu-central-1", False),
    ],
)
def test_start_after_redis(env: str, is_after: bool) -> None:
    """The service starts after a Redis of its host, and does not start it."""
    unit = render_service(Layout(), settings(env), 252, "1")
    assert (" redis-server.service redis.service" in unit) is is_after
    assert "Wants=network-online.target\n" in unit
