"""The credentials that LiteLLM uses for a model, and configurations with two kinds of them."""

from __future__ import annotations

import pytest

from litellm_systemd.aws.credentials import (
    AuthMethod,
    auth_method_of,
    bedrock_models,
    callers,
    environ_of,
    may_use_metadata,
    needs_metadata,
    require_one_identity,
    uses_pair,
)
from litellm_systemd.commands.config_files import shipped_config
from litellm_systemd.doctor.check_aws import denies_metadata
from litellm_systemd.errors import InputError
from litellm_systemd.gateway.config import GatewayConfig, parse_config
from litellm_systemd.gateway.models import build_served

KEYS = {"AWS_ACCESS_KEY_ID": "AKIAIOSFODNN7EXAMPLE", "AWS_SECRET_ACCESS_KEY": "secret"}
ROLE = {"AWS_ROLE_NAME": "arn:aws:iam::123456789012:role/gateway"}
OWN = "aws_access_key_id: AKIAOTHER, aws_secret_access_key: other"
REFERRED = "aws_access_key_id: os.environ/AWS_ACCESS_KEY_ID, aws_secret_access_key: os.environ/AWS_SECRET_ACCESS_KEY"


def config_of(params: str = "", name: str = "mine.yml") -> GatewayConfig:
    text = f"model_list:\n- model_name: m\n  litellm_params: {{model: bedrock/converse/us.x, {params}}}\n"
    return parse_config(text, name)


@pytest.mark.parametrize(
    ("params", "environ", "method"),
    [
        ("", {}, AuthMethod.AMBIENT),
        ("", KEYS, AuthMethod.KEYS),
        (REFERRED, KEYS, AuthMethod.KEYS),
        (OWN, {}, AuthMethod.KEYS),
        ("", {**KEYS, **ROLE}, AuthMethod.ROLE),
        ("aws_role_name: os.environ/OTHER", {"OTHER": "arn:aws:iam::1:role/x"}, AuthMethod.ROLE),
        ("", {"AWS_PROFILE_NAME": "p"}, AuthMethod.PROFILE),
        ("", {**KEYS, "AWS_BEARER_TOKEN_BEDROCK": "ABSK"}, AuthMethod.API_KEY),
        ("api_key: ABSK", KEYS, AuthMethod.API_KEY),
    ],
)
def test_credentials_of_a_model(params: str, environ: dict[str, str], method: AuthMethod) -> None:
    """An API key precedes a role, a role a profile, a profile an access key, and all precede ambient credentials."""
    config = config_of(params)
    assert auth_method_of(config, config.models[0], environ) is method


@pytest.mark.parametrize(
    ("environ", "needed"),
    [
        ({}, True),
        (ROLE, True),
        (KEYS, False),
        ({**KEYS, **ROLE}, False),
        ({"AWS_BEARER_TOKEN_BEDROCK": "ABSK"}, False),
        # A token for a database is signed with other credentials than an API key.
        ({"AWS_BEARER_TOKEN_BEDROCK": "ABSK", "IAM_TOKEN_DB_AUTH": "true"}, True),
        ({"AWS_PROFILE": "p"}, False),
        ({"AWS_CONTAINER_CREDENTIALS_FULL_URI": "http://127.0.0.1/x"}, False),
    ],
)
def test_metadata_are_needed(environ: dict[str, str], needed: bool) -> None:
    """The instance metadata are needed if nothing else signs, also to assume another role."""
    assert needs_metadata(config_of(), environ) is needed


@pytest.mark.parametrize(
    ("params", "environ", "may"),
    [
        ("", {}, True),
        ("", KEYS, False),
        ("", {**KEYS, **ROLE}, False),
        ("", ROLE, True),
        (OWN, {}, False),
        ("", {"AWS_BEARER_TOKEN_BEDROCK": "ABSK"}, False),
        ("", {"AWS_BEARER_TOKEN_BEDROCK": "ABSK", "LITELLM_MASTER_KEY": "aws-secretsmanager:arn"}, True),
        ("", {"AWS_BEARER_TOKEN_BEDROCK": "ABSK", "IAM_TOKEN_DB_AUTH": "true"}, True),
        ("", {**KEYS, "IAM_TOKEN_DB_AUTH": "true"}, False),
        ("", {"AWS_BEARER_TOKEN_BEDROCK": "ABSK", "REDIS_HOST": "h", "REDIS_AWS_IAM_AUTH": "true"}, True),
        ("", {"AWS_BEARER_TOKEN_BEDROCK": "ABSK", "REDIS_AWS_IAM_AUTH": "true"}, False),
        # A profile may name the instance as the source of its credentials.
        ("", {"AWS_PROFILE": "p"}, True),
        ("aws_profile_name: p", KEYS, True),
        ("", {**KEYS, "AWS_CONTAINER_CREDENTIALS_FULL_URI": "http://169.254.170.23/x"}, True),
    ],
)
def test_metadata_may_be_denied(params: str, environ: dict[str, str], *, may: bool) -> None:
    """The instance metadata are denied only to a service that has other credentials for each model."""
    assert may_use_metadata(config_of(params), environ) is may


@pytest.mark.parametrize(
    ("more", "with_key"),
    [
        ("litellm_settings: {success_callback: [s3_v2]}", False),
        ("litellm_settings: {cache_params: {type: s3}}", False),
        ("litellm_settings: {callbacks: [a, mine.handler]}", False),
        ("general_settings: {custom_auth: mine.check}", False),
        ("general_settings: {key_management_system: aws_secret_manager}", False),
        ("litellm_settings: {callbacks: [gcs_bucket]}", True),
        ("general_settings: {key_management_system: google_kms}", True),
    ],
)
def test_what_else_may_need_metadata(more: str, with_key: bool) -> None:
    """Callbacks, caches and key management may need them as well; those of AWS use an access key first."""
    model = "model_list: [{model_name: m, litellm_params: {model: openai/x, api_key: os.environ/X}}]\n"
    assert may_use_metadata(parse_config(model + more, "x"), {}) is True
    assert may_use_metadata(parse_config(model + more, "x"), KEYS) is with_key
    assert may_use_metadata(parse_config(model, "x"), {}) is False


@pytest.mark.parametrize("name", ["vertex_ai/gemini", "azure/gpt", "sagemaker/x"])
def test_models_of_other_services_may_need_metadata(name: str) -> None:
    """Other clouds serve credentials at the same address."""
    text = f"model_list: [{{model_name: m, litellm_params: {{model: {name}}}}}]"
    assert may_use_metadata(parse_config(text, "x"), {}) is True


@pytest.mark.parametrize(
    ("name", "environ", "may"),
    [
        ("demo.yml", {}, False),
        ("access_key_config.yml", KEYS, False),
        ("prompt_caching.yml", KEYS, False),
        ("iam_role_config.yml", {}, True),
    ],
)
def test_shipped_configurations_and_metadata(name: str, environ: dict[str, str], *, may: bool) -> None:
    """Of the shipped configurations, the one for a role alone uses the instance metadata."""
    assert may_use_metadata(shipped_config(name, "us-east-1"), environ) is may


@pytest.mark.parametrize(
    ("denied", "allowed", "denies"),
    [
        ("", "", False),
        ("169.254.169.254/32 fd00:ec2::254/128", "", True),
        ("0.0.0.0/0 ::/0", "", True),
        ("169.254.169.254/32", "169.254.0.0/16", False),
        ("10.0.0.0/8 fd00:ec2::254/128", "", False),
    ],
)
def test_unit_that_denies_metadata(denied: str, allowed: str, *, denies: bool) -> None:
    """`doctor` knows whether a unit may connect to the instance metadata, drop-ins included."""
    assert denies_metadata({"IPAddressDeny": denied, "IPAddressAllow": allowed}) is denies
    assert denies_metadata({}) is False


def test_demo_needs_nothing() -> None:
    """The demo configuration needs neither instance metadata nor an access key."""
    config = shipped_config("demo.yml")
    assert not bedrock_models(config, {})
    assert not needs_metadata(config, {})
    assert not uses_pair(config, KEYS)


@pytest.mark.parametrize(("environ", "used"), [({}, False), (KEYS, True), ({**KEYS, **ROLE}, True), (ROLE, False)])
def test_access_key_is_used(environ: dict[str, str], used: bool) -> None:
    """The access key of the environment is used to sign or to assume a role."""
    assert uses_pair(config_of(), environ) is used


@pytest.mark.parametrize(
    ("params", "name", "message"),
    [
        (OWN, "mine.yml", r"mine\.yml:3:\d+: .*has its own key, and \.env:AWS_ACCESS_KEY_ID"),
        ("aws_access_key_id: AKIAOTHER", "mine.yml", r"mine\.yml:3:\d+: .* is set, but aws_secret_access_key is not"),
    ],
)
def test_two_credentials_are_an_error(params: str, name: str, message: str) -> None:
    """An access key in two places and half of one are errors with a position."""
    with pytest.raises(InputError, match=message) as caught:
        require_one_identity(config_of(params, name), KEYS, lambda variable: f".env:{variable}")
    assert caught.value.hint
    assert "other" not in caught.value.message.replace("of its own", "")


def test_a_key_under_a_configuration_for_a_role() -> None:
    """A key pair is refused where the configuration says that it is for a role, whatever the file's name is."""
    text = "x-identity: iam-role\nmodel_list:\n- {model_name: m, litellm_params: {model: bedrock/us.x}}\n"
    with pytest.raises(InputError, match=r"\.env:AWS_ACCESS_KEY_ID: .* mine\.yml is for the instance's role"):
        require_one_identity(parse_config(text, "mine.yml"), KEYS, lambda variable: f".env:{variable}")
    require_one_identity(config_of("", "iam_role_config.yml"), KEYS, str)


@pytest.mark.parametrize("name", ["access_key_config.yml", "iam_role_config.yml", "prompt_caching.yml"])
def test_one_credential_passes(name: str) -> None:
    """Each shipped configuration passes with its own method, and so does a key that only the file has."""
    environ = {} if name == "iam_role_config.yml" else KEYS
    require_one_identity(shipped_config(name), environ, str)
    require_one_identity(config_of(OWN), {}, str)


def test_the_environment_of_a_model() -> None:
    """A model's own parameters replace the variables, and references are resolved."""
    config = config_of("aws_role_name: os.environ/OTHER, aws_session_name: mine, aws_external_id: os.environ/UNSET")
    environ = {**KEYS, **ROLE, "OTHER": "arn:aws:iam::1:role/x", "AWS_EXTERNAL_ID": "of-all"}
    own = {"AWS_ROLE_NAME": "arn:aws:iam::1:role/x", "AWS_SESSION_NAME": "mine"}
    assert environ_of(config, config.models[0], environ) == {**environ, **own}


def test_the_credential_of_a_model() -> None:
    """The values of a credential count for the models that name it; a model's own parameters take precedence."""
    values = "aws_access_key_id: os.environ/ID, aws_secret_access_key: os.environ/SECRET, aws_region_name: eu-west-1"
    named = (
        f"credential_list: [{{credential_name: main, credential_info: {{}}, credential_values: {{{values}}}}}]\n"
        "model_list:\n"
        "- {model_name: a, litellm_params: {model: eu.anthropic.claude-sonnet-4-6, litellm_credential_name: main}}\n"
        "- model_name: b\n"
        "  litellm_params: {model: bedrock/us.x, aws_region_name: us-east-1, litellm_credential_name: main}\n"
    )
    misspelt = "- {model_name: c, litellm_params: {model: bedrock/us.x, litellm_credential_name: mian}}\n"
    config = parse_config(named + misspelt, "c.yml")
    environ = {"ID": "AKIA", "SECRET": "s", "AWS_REGION_NAME": "us-west-2"}
    served = build_served(config, environ)
    assert [each.region for each in served] == ["eu-west-1", "us-east-1", "us-west-2"]
    methods = [auth_method_of(config, model, environ) for model in config.models]
    assert methods == [AuthMethod.KEYS, AuthMethod.KEYS, AuthMethod.AMBIENT]
    assert environ_of(config, config.models[0], environ)["AWS_ACCESS_KEY_ID"] == "AKIA"
    assert not may_use_metadata(parse_config(named, "c.yml"), environ)
    assert may_use_metadata(config, environ)


def test_callers() -> None:
    """Models without own credentials have one caller in each region; a model with its own role has another."""
    rows = (
        "model: bedrock/us.x",
        "model: bedrock/us.y",
        "model: bedrock/us.z, aws_role_name: 'arn:aws:iam::1:role/x'",
        "model: bedrock/eu.x, aws_region_name: eu-west-1",
        "model: openai/gpt-4o, api_key: k",
        "model: bedrock/us.x, mock_response: x",
    )
    entries = "".join(f"- {{model_name: m{i}, litellm_params: {{{row}}}}}\n" for i, row in enumerate(rows))
    config = parse_config(f"model_list:\n{entries}environment_variables: {{AWS_REGION_NAME: us-east-1}}\n", "c.yml")
    found = callers(config, build_served(config, KEYS), KEYS)
    assert [(each.region, [one.model.name for one in each.models]) for each in found] == [
        ("us-east-1", ["m0", "m1"]),
        ("us-east-1", ["m2"]),
        ("eu-west-1", ["m3"]),
    ]
    assert [each.environ.get("AWS_ROLE_NAME") for each in found] == [None, "arn:aws:iam::1:role/x", None]
    assert "secret" not in repr(found)
