"""configs/cloudformation/fleet.yaml: what its parts promise each other, with minimal permissions."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from litellm_systemd.aws.policy import build_cloudwatch, build_policy
from litellm_systemd.commands.config_files import shipped_config
from litellm_systemd.env.secret_references import find_references
from litellm_systemd.env.settings import build_settings, parse_dotenv
from litellm_systemd.env.variables import LIFECYCLE_HEARTBEAT_TIMEOUT, LOAD_BALANCER_IDLE_TIMEOUT
from tests.cloudformation import EC2, FLEET, Stack, read_stack, rights, statements, user_data

ACCOUNT = "123456789012"


def secret(name: str) -> str:
    return f"arn:aws:secretsmanager:us-east-1:{ACCOUNT}:secret:{name}-a1B2c3"


VALUES = {
    "SourceUrl": "s3://bucket/folder/source.tar.gz",
    "SourceSha256": "0" * 64,
    "VpcCidr": "10.1.0.0/16",
    "ModelPolicyArn": f"arn:aws:iam::{ACCOUNT}:policy/models",
    **{name: secret(name) for name in ("MasterKey", "SaltKey", "DatabasePassword", "CacheToken")},
    "Database.Endpoint.Address": "gateway.c1.us-east-1.rds.amazonaws.com",
    "Cache.PrimaryEndPoint.Address": "master.gateway.c1.use1.cache.amazonaws.com",
}


@pytest.fixture(scope="module")
def stack() -> Stack:
    return read_stack(VALUES, template=FLEET)


def attributes(stack: Stack, resource: str, name: str) -> dict[str, str]:
    return {each["Key"]: each["Value"] for each in stack.resource(resource)[name]}


def dotenv_of(stack: Stack) -> dict[str, str]:
    """The `.env` that the user data write, as the installer reads it."""
    block = re.search(r"<<END\n(.*?)^END$", user_data(stack), re.DOTALL | re.MULTILINE)
    assert block is not None
    text = block[1].replace("$root", "/etc/pki/tls/certs/rds-global-bundle.pem")
    return dict(build_settings(parse_dotenv(text, ".env"), installed={}, new_key=lambda: "sk-x").environment)


def test_only_the_load_balancer_is_open(stack: Stack) -> None:
    """Clients reach the load balancer by HTTPS, only it reaches the gateway, and only the gateway reaches database
    and cache.
    """
    open_to = {}
    for name, each in stack.template["Resources"].items():
        if each["Type"] == "AWS::EC2::SecurityGroup":
            rules = stack.resource(name).get("SecurityGroupIngress", [])
            open_to[name] = [
                (rule["FromPort"], rule.get("CidrIp") or rule["SourceSecurityGroupId"]) for rule in rules
            ]
    for name in ("DatabaseIngress", "CacheIngress"):
        rule = stack.resource(name)
        open_to[rule["GroupId"].strip("<>")].append((rule["FromPort"], rule["SourceSecurityGroupId"]))
    assert open_to == {
        "BalancerGroup": [(443, "10.0.0.0/8")],
        "InstanceGroup": [(4000, "<BalancerGroup>")],
        "DatabaseGroup": [(5432, "<InstanceGroup>")],
        "CacheGroup": [(6379, "<InstanceGroup>")],
    }
    listener = stack.resource("Listener")
    assert (listener["Protocol"], listener["Port"]) == ("HTTPS", 443)


def test_times_fit(stack: Stack) -> None:
    """The load balancer waits for a stream as long as the gateway does, and notices a planned drain in time; the
    hook waits for the whole drain; no idle connection is closed by the gateway first.
    """
    values = dotenv_of(stack)
    settings = build_settings(
        parse_dotenv("".join(f"{name}={value}\n" for name, value in values.items()), ".env"),
        installed={},
        new_key=lambda: "sk-x",
    )
    drain = settings.deregistration_delay + settings.drain_timeout
    target, group = stack.resource("TargetGroup"), stack.resource("Group")
    waits = attributes(stack, "TargetGroup", "TargetGroupAttributes")
    assert int(waits["deregistration_delay.timeout_seconds"]) >= drain
    noticed = (
        target["HealthCheckIntervalSeconds"] * target["UnhealthyThresholdCount"] + target["HealthCheckTimeoutSeconds"]
    )
    assert settings.deregistration_delay > noticed
    hooks = {each["LifecycleHookName"]: each for each in group["LifecycleHookSpecificationList"]}
    assert hooks["drain"]["HeartbeatTimeout"] == LIFECYCLE_HEARTBEAT_TIMEOUT.read(values)
    assert hooks["drain"]["HeartbeatTimeout"] > drain + 60
    idle = attributes(stack, "LoadBalancer", "LoadBalancerAttributes")["idle_timeout.timeout_seconds"]
    assert int(idle) == LOAD_BALANCER_IDLE_TIMEOUT.read(values) < float(values["KEEPALIVE_TIMEOUT"])
    config = shipped_config(values["CONFIG_FILE"], "us-east-1")
    assert float(config.section("litellm_settings")["request_timeout"]) < int(idle)
    # An instance that fails its installation is given up; a drain that takes too long ends all the same.
    assert {name: hook["DefaultResult"] for name, hook in hooks.items()} == {"launch": "ABANDON", "drain": "CONTINUE"}


def test_health_check_and_slow_start(stack: Stack) -> None:
    """An instance gets requests when it is ready, and not all of its share at once."""
    target = stack.resource("TargetGroup")
    assert (target["HealthCheckPath"], target["Port"]) == ("/health/readiness", 4000)
    assert int(attributes(stack, "TargetGroup", "TargetGroupAttributes")["slow_start.duration_seconds"]) >= 30
    assert stack.resource("Group")["HealthCheckType"] == "ELB"


def test_refresh(stack: Stack) -> None:
    """A refresh launches before it terminates, and an alarm on errors of the gateway rolls it back."""
    policy = stack.resolve(stack.template["Resources"]["Group"]["UpdatePolicy"])["AutoScalingInstanceRefresh"]
    wanted = policy["Preferences"]
    assert (wanted["MinHealthyPercentage"], wanted["MaxHealthyPercentage"]) == (100, 110)
    assert wanted["AlarmSpecification"]["Alarms"] == ["<ServerErrors>", "<UnhealthyInstances>"]
    # AWS waits for missing data otherwise.
    assert {
        stack.resource(each.strip("<>"))["TreatMissingData"] for each in wanted["AlarmSpecification"]["Alarms"]
    } == {"notBreaching"}


def test_scaling_on_our_metric(stack: Stack) -> None:
    """The group grows with the requests in flight, which the agent's files report for each fleet."""
    metric = stack.resource("ScaleByRequestsInFlight")["TargetTrackingConfiguration"]["CustomizedMetricSpecification"]
    assert metric["Dimensions"] == [{"Name": "fleet", "Value": "gateway"}]
    agent = (FLEET.parents[1] / "cloudwatch/amazon-cloudwatch-agent.json").read_text(encoding="utf-8")
    assert metric["MetricName"] in agent
    assert '["fleet"]' in agent


def test_data_at_rest_and_in_transit(stack: Stack) -> None:
    """Database, cache, disks and their connections are encrypted, and database and cache are in two zones."""
    database, cache = stack.resource("Database"), stack.resource("Cache")
    assert (database["MultiAZ"], database["StorageEncrypted"], database["PubliclyAccessible"]) == (True, True, False)
    assert all(cache[f"{each}EncryptionEnabled"] for each in ("Transit", "AtRest"))
    assert (cache["MultiAZEnabled"], cache["AutomaticFailoverEnabled"]) == (True, True)
    assert cache["AuthToken"].startswith("{{resolve:secretsmanager:")
    data = stack.resource("LaunchTemplate")["LaunchTemplateData"]
    assert (data["MetadataOptions"]["HttpTokens"], data["MetadataOptions"]["HttpPutResponseHopLimit"]) == (
        "required",
        1,
    )
    assert data["BlockDeviceMappings"][0]["Ebs"]["Encrypted"] is True


def test_one_master_and_one_salt_key(stack: Stack) -> None:
    """All instances read the same keys, which no file of them has, and the role may read these secrets alone."""
    values = dotenv_of(stack)
    found = {each.variable: each for each in find_references(values)}
    assert set(found) == {"LITELLM_MASTER_KEY", "LITELLM_SALT_KEY", "DATABASE_PASSWORD", "REDIS_PASSWORD"}
    (statement,) = statements(stack)["secrets"]
    assert sorted(statement["Resource"]) == sorted(each.name for each in found.values())
    # The same action and secrets as `litellmctl iam-policy` prints for this .env.
    printed: Any = build_policy((), (), tuple(found.values()), account=ACCOUNT)["Statement"]
    reading = [each for each in printed if each["Sid"] == "ReadSecrets"]
    assert sorted(rights([statement])) == sorted(rights(reading))
    # The database outlives the stack as a snapshot, and so does what decrypts it.
    resources = stack.template["Resources"]
    assert {resources[name]["DeletionPolicy"] for name in ("MasterKey", "SaltKey")} == {"Retain"}
    assert resources["Database"]["DeletionPolicy"] == "Snapshot"


def test_role(stack: Stack) -> None:
    """The role may read its source and secrets, complete hooks of its group, write its logs, and call the models that
    the given policy names.
    """
    role = stack.resource("Role")
    session_manager = "arn:aws:iam::aws:policy/AmazonSSMManagedInstanceCore"
    assert role["ManagedPolicyArns"] == [session_manager, VALUES["ModelPolicyArn"]]
    found = statements(stack)
    assert set(found) == {"secrets", "lifecycle", "cloudwatch", "source"}
    (lifecycle,) = found["lifecycle"]
    assert lifecycle["Resource"].endswith(":autoScalingGroup:*:autoScalingGroupName/gateway")
    printed = [
        (a, arn.replace("/litellm/*", "/litellm/gateway/*"), c)
        for a, arn, c in rights(build_cloudwatch("us-east-1", account=ACCOUNT))
    ]
    assert sorted(rights(found["cloudwatch"])) == sorted(printed)
    demo = read_stack({**VALUES, "ModelPolicyArn": "", "SourceUrl": ""}, template=FLEET)
    assert demo.resource("Role")["ManagedPolicyArns"] == [session_manager]
    assert "source" not in statements(demo)


def test_user_data(stack: Stack, tmp_path: Path) -> None:
    """The script has no CloudFormation syntax left, fits into user data, passes bash and shellcheck, and fetches the
    source as that of ec2.yaml does.
    """
    text = user_data(stack)
    script = tmp_path / "user-data"
    script.write_text(text)
    assert not re.search(r"\$\{(AWS::|Source|Configuration|Database|Cache)|<\w+>", text)
    assert len(text) < 12_000
    done = subprocess.run((f"{sys.prefix}/bin/shellcheck", str(script)), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout
    fetch = re.search(r"doing=\"fetching \$source\".*?rm \"\$archive\"", user_data(read_stack(VALUES)), re.DOTALL)
    assert fetch is not None
    assert re.sub(r"\n +", "\n", fetch[0]) in re.sub(r"\n +", "\n", text)


@pytest.mark.parametrize("name", ["SourceUrl", "SourceSha256"])
def test_source_parameters(name: str) -> None:
    """The source has the form of ec2.yaml, or is empty for an image that has it."""
    pattern, other = (
        read_stack({}, template=each).template["Parameters"][name]["AllowedPattern"] for each in (FLEET, EC2)
    )
    assert pattern == f"({other})?"


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("Configuration", "a b.yml"),
        ("Configuration", "../x.yml"),
        ("VpcCidr", "10.0.0.0/16 $(reboot)"),
        ("ClientCidr", "anyone"),
        ("CertificateArn", "arn:aws:iam::123456789012:server-certificate/x"),
        ("ModelPolicyArn", "models"),
        ("AlarmTopicArn", "topic"),
        ("DatabaseClass", "m7g.large"),
    ],
)
def test_values_that_do_not_fit(name: str, value: str) -> None:
    """CloudFormation refuses a value that would break the script or a resource."""
    pattern = read_stack({}, template=FLEET).template["Parameters"][name]["AllowedPattern"]
    assert not re.fullmatch(pattern, value)
