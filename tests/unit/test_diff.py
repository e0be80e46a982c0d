"""Differences between two states of a path."""

from __future__ import annotations

import time

import pytest

from litellm_systemd.env.dotenv import render_assignments
from litellm_systemd.env.secrets import MASK, mask_lines, mask_yaml
from litellm_systemd.host.state import FileState, folder, link, render_diff

OLD = FileState("/etc/x.yml", b"a: 1\nb: 2\n")


def test_unified_diff() -> None:
    """A change of text is shown as a unified diff that names the path on both sides."""
    new = FileState("/etc/x.yml", b"a: 1\nb: 3\n")
    assert render_diff(OLD, new).splitlines() == [
        "--- /etc/x.yml",
        "+++ /etc/x.yml",
        "@@ -1,2 +1,2 @@",
        " a: 1",
        "-b: 2",
        "+b: 3",
    ]


def test_new_and_gone() -> None:
    """A new or removed file is compared with /dev/null, as diff does."""
    assert render_diff(None, OLD).splitlines()[:2] == ["--- /dev/null", "+++ /etc/x.yml"]
    assert render_diff(OLD, None).splitlines()[:2] == ["--- /etc/x.yml", "+++ /dev/null"]


def test_mode_owner_kind_and_link() -> None:
    """A change of mode, owner, kind or link target is described in words."""
    closed = FileState("/etc/x.yml", OLD.content, mode=0o600, group="litellm")
    assert render_diff(OLD, closed) == "/etc/x.yml: mode 0644 root:root, to be mode 0600 root:litellm"
    assert "a folder, to be a file" in render_diff(folder("/etc/x.yml", 0o755), OLD)
    assert render_diff(link("/l", "a"), link("/l", "b")).splitlines()[-2:] == ["-link to a", "+link to b"]


CANARY = "sk-canary"
#: A line of an environment file, of a unit or of a configuration, with a secret in it.
SECRET_LINES = [
    'LITELLM_MASTER_KEY="sk-canary"',
    "AWS_SECRET_ACCESS_KEY=sk-canary",
    "AWS_SESSION_TOKEN='sk-canary'",
    "      api_key: sk-canary",
    "      aws_secret_access_key: 'sk-canary'",
    '  "password": "sk-canary"',
    'HTTPS_PROXY="http://me:sk-canary@proxy:3128"',
    'DATABASE_URL="postgresql://llm:sk-canary@db/x"',
    "SLACK_WEBHOOK=sk-canary",
    "DB_PWD=sk-canary",
    "MY_AUTH=sk-canary",
    "LITELLM_SALT=sk-canary",
    "Authorization: Bearer sk-canary",
    "- Authorization: Bearer sk-canary",
    "# api_key: sk-canary",
    'Environment=A=1 "DEPLOY_TOKEN=sk-canary" PORT=4000',
    "SetCredential=token:sk-canary",
]


@pytest.mark.parametrize("line", SECRET_LINES)
@pytest.mark.parametrize("canary", [CANARY, "hunter2horse", "4711"])
def test_secrets_are_masked(line: str, canary: str) -> None:
    """A secret is masked by its name alone, whatever it looks like; the name stays readable."""
    shown = mask_lines(line.replace(CANARY, canary))
    assert canary not in shown
    assert MASK in shown
    assert line.split("=")[0].split(":")[0] in shown


@pytest.mark.parametrize(
    "line",
    [
        "  api_key: os.environ/MY_KEY",
        "KeyringMode=private",
        "  max_tokens: 100",
        "  input_cost_per_token: 0.000003",
        '  "cache_read_input_token_cost": 0,',
        "api_key_model_discovery = true",
        "  custom_tokenizer: {identifier: deepseek-ai/DeepSeek-V3}",
        "  key_management_system: aws_secret_manager",
        "  litellm_key_header_name: X-Litellm-Key",
        'PORT="4000"',
        "  keepalive: 5",
        "  enable_jwt_auth: true",
        "  database_connection_pool_limit: 10",
        "  - model_name: claude-sonnet-5-5",
        "      model: bedrock/us.anthropic.claude-sonnet-4-5-20250929-v1:0",
        "      model: ollama/llama3_instruct_70b",
        "  - models/bedrock_shared2.yml",
        "  callbacks: custom_callbacks1.proxy_handler_instance",
        "Environment=HOME=%S/litellm XDG_CACHE_HOME=%C/litellm",
        "EnvironmentFile=/etc/litellm/litellm.env",
    ],
)
def test_other_values_are_shown(line: str) -> None:
    """References to variables, model ids, and settings that only resemble a secret are not masked."""
    assert mask_lines(line) == line
    assert mask_yaml(line) == line


CONFIG = """\
model_list:
  - model_name: a  # paid by key canary-9
    litellm_params: {model: openai/x, api_key: canary-1, extra_headers: {X-Own: "canary two"}}
general_settings:
  alert_webhooks:
    - canary-3
    - "canary-4"
  master_key: >-
    canary-5
    canary-6
  pass_through_endpoints:
    - path: /x
      headers: {Authorization: "Bearer canary-7", content-type: on}
# api_key: canary-8
litellm_settings: {request_timeout: 30, drop_params: true}
"""


def test_secrets_of_a_configuration() -> None:
    """In a configuration, lists, flow mappings, headers, folded values and comments are masked; the rest is shown."""
    shown = mask_yaml(CONFIG.replace("canary-9", "sk-canary-9x"))
    assert "canary" not in shown
    assert len(shown.split("\n")) == len(CONFIG.split("\n"))
    assert shown.endswith("# api_key: ***\nlitellm_settings: {request_timeout: 30, drop_params: true}\n")
    assert "    litellm_params: {model: openai/x, api_key: ***, extra_headers: {X-Own: ***}}\n" in shown


def test_secrets_of_an_invalid_configuration() -> None:
    """A file that is not valid YAML is masked line by line, with lists and blocks under a secret name."""
    shown = mask_yaml(
        "a: b: c\nkeys:\n  - canary-1\n- api_key:\n    canary-2\nport: 4000\ntoken: |\n  canary-3\n\n  canary-4\nb: 1"
    )
    assert "canary" not in shown
    assert "port: 4000" in shown
    assert shown.endswith("b: 1")


@pytest.mark.parametrize(
    "text",
    [
        'x: [\napi_key: "one\n  canary"\n',
        "x: [\n- api_key: one\n    canary\n  model: shown\n",
        "x: [\napi_key: >2-\n   canary\n",
        "x: [\napi_key: | # new\n   canary\n",
        'x: [\n"api_keys":\n- canary\n',
        "model_list: []\n# api_key: |\n#   canary\n# model: shown\n",
        "model_list: []\n# api_keys:\n# - canary\n",
        "general_settings:\n  alert_to_webhook_url:\n    budget_alerts: https://example.com/canary\n",
        "url: postgres://u:canary/x@db/y\n",
        "url: https://u:p@canary@db/y\n",
    ],
)
def test_secrets_that_span_lines(text: str) -> None:
    """The further lines of a secret, in a broken file or a comment, and passwords with @ or / in a URL are masked."""
    for each in (mask_yaml(text), mask_lines(text)):
        assert "canary" not in each
        assert ("shown" in each) == ("shown" in text)
        assert each.count("\n") == text.count("\n")


@pytest.mark.parametrize(
    "text",
    [
        'Environment=\\\n "MY_THING=canary-of-words" SHOWN=1',
        "Environment=A=1 \\\n# a comment\n  MY_THING=canary-of-words SHOWN=1",
        "SetCredentialEncrypted=x: \\\n  Canary \\\n  canary\nType=SHOWN",
        "ExecStart=/bin/SHOWN --api-key canary-of-words",
    ],
)
def test_secrets_of_continued_lines_of_a_unit(text: str) -> None:
    """Lines of a unit that continue the one before are masked like it; what follows shows."""
    shown = mask_lines(text)
    assert "canary" not in shown.lower()
    assert "SHOWN" in shown
    assert shown.count("\n") == text.count("\n")


@pytest.mark.parametrize(
    "line",
    ["REDIS_HOST=redis.internal", "AZURE_API_VERSION=2024-10-21", "TZ=Europe/Berlin", "OTEL_SERVICE_NAME=gateway"],
)
def test_hosts_and_versions_show(line: str) -> None:
    """The value of a variable whose name says that it is a host, a version or a time zone shows."""
    name, _, value = line.partition("=")
    assert f'+{name}="{value}"' in render_diff(None, FileState("/etc/x.env", line.encode()))


def test_variables_of_the_table() -> None:
    """A variable that the table calls public is shown, except for a password in it; one that it calls secret never
    is.
    """
    values = {
        "AWS_ROLE_NAME": "arn:aws:iam::123456789012:role/litellm_gateway2",
        "AWS_WEB_IDENTITY_TOKEN_FILE": "/etc/litellm/token",
        "HTTPS_PROXY": "http://me:canary@proxy:3128",
        "DATABASE_URL": "canary",
        "AWS_BEARER_TOKEN_BEDROCK": "canary",
    }
    text = render_diff(None, FileState("/etc/e.env", render_assignments(values).encode()))
    assert text.splitlines()[3:] == [
        '+AWS_ROLE_NAME="arn:aws:iam::123456789012:role/litellm_gateway2"',
        '+AWS_WEB_IDENTITY_TOKEN_FILE="/etc/litellm/token"',
        '+HTTPS_PROXY="http://***@proxy:3128"',
        "+DATABASE_URL=***",
        "+AWS_BEARER_TOKEN_BEDROCK=***",
    ]


def test_a_changed_secret_is_a_difference() -> None:
    """A changed secret is a changed line without either value."""
    before, after = (FileState("/etc/x.yml", f"a: 1\napi_key: canary-{number}\n".encode()) for number in (1, 2))
    assert render_diff(before, after).splitlines()[3:] == [" a: 1", "-api_key: ***", "+api_key: ***"]


def test_secret_of_several_lines() -> None:
    """A changed secret of several lines is a difference, and no line of it is shown."""
    before, after = (
        FileState("/etc/e.env", render_assignments({"A_KEY": f"BEGIN\ncanary{number}\nEND", "B": "x"}).encode())
        for number in (1, 2)
    )
    text = render_diff(before, after)
    assert "canary" not in text
    assert [line for line in text.splitlines()[3:] if "A_KEY" in line] == [f"-A_KEY={MASK}", f"+A_KEY={MASK}"]


@pytest.mark.parametrize("text", ["a" * 20_000, "-" * 20_000, "--key" * 4_000, "a/" * 10_000])
def test_a_long_word_is_masked_in_no_time(text: str) -> None:
    """The time for a long word, such as an image in base64 in a log line, does not grow with its square."""
    began = time.process_time()
    assert mask_lines(text) == text
    assert mask_yaml(f"a: {text}") == f"a: {text}"
    assert time.process_time() - began < 2
