"""configs/cloudformation/ec2.yaml: valid for CloudFormation, closed to the network, with minimal permissions."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from cfnlint.api import lint_file
from cfnlint.config import ManualArgs

from litellm_systemd.aws.policy import build_cloudwatch, build_grant, build_policy, build_rds
from litellm_systemd.bedrock.models import PROFILES, REGIONS, profile
from litellm_systemd.commands.config_files import shipped_config
from litellm_systemd.env.database import find_url
from litellm_systemd.env.settings import build_settings, parse_dotenv
from litellm_systemd.errors import InputError
from litellm_systemd.gateway.models import build_served
from tests.cloudformation import EC2, FLEET, Stack, read_stack, rights, statements, user_data
from tests.skipping import refuse

CHECKOV = Path(__file__).resolve().parents[2] / ".cache/checkov/bin/checkov"
SOURCE = {"SourceUrl": "s3://bucket/folder/source.tar.gz", "SourceSha256": "0" * 64, "VpcId": "vpc-1"}
ACCOUNT = "123456789012"


def offered(region: str) -> bool:
    try:
        return all(profile(model, region) for model in PROFILES)
    except InputError:
        return False


SERVED = sorted(region for region in REGIONS if offered(region))


@pytest.fixture(scope="module")
def stack() -> Stack:
    return read_stack(SOURCE)


def instance(stack: Stack) -> Any:
    return stack.resource("LaunchTemplate")["LaunchTemplateData"]


@pytest.mark.parametrize("template", [EC2, FLEET], ids=lambda each: each.stem)
def test_cfn_lint_finds_nothing(template: Path) -> None:
    """CloudFormation's linter reports no errors or warnings, in any region where the models are offered."""
    known = [region for region in SERVED if region not in ("ap-southeast-6",)]
    found = lint_file(template, ManualArgs(regions=known, include_checks=["I"]))
    assert not found, "\n".join(f"{each.rule.id} line {each.linenumber}: {each.message}" for each in found)


@pytest.mark.slow
def test_checkov_finds_nothing() -> None:
    """The templates pass checkov's rules. What is skipped has its reason in the template."""
    if not CHECKOV.exists():
        refuse(f"{CHECKOV} isn't there: scripts/test.sh makes it")
    argv = (str(CHECKOV), "--framework", "cloudformation", "--skip-download", "--output", "json")
    done = subprocess.run(
        (*argv, "--directory", str(EC2.parent)), capture_output=True, text=True, check=False, cwd=EC2.parent
    )
    found = json.loads(done.stdout)
    failed = [f"{each['check_id']} {each['resource']}" for each in found["results"]["failed_checks"]]
    assert (failed, found["summary"]["parsing_errors"]) == ([], 0)
    skipped = {each["check_id"] for each in found["results"]["skipped_checks"]}
    # Keys of one's own for secrets and for logs, and access logs of the load balancer.
    assert skipped == {"CKV_AWS_149", "CKV_AWS_158", "CKV_AWS_91"}
    assert all(each["check_result"]["suppress_comment"] for each in found["results"]["skipped_checks"])
    assert found["summary"]["passed"] > 60


def test_no_open_port(stack: Stack) -> None:
    """No port is open, and only HTTPS can leave."""
    types = {name: each["Type"] for name, each in stack.template["Resources"].items()}
    assert "AWS::EC2::SecurityGroupIngress" not in types.values()
    assert [name for name, kind in types.items() if kind == "AWS::EC2::SecurityGroup"] == ["SecurityGroup"]
    group = stack.resource("SecurityGroup")
    assert "SecurityGroupIngress" not in group
    ways = [(rule["IpProtocol"], rule["FromPort"], rule["ToPort"]) for rule in group["SecurityGroupEgress"]]
    assert ways == [("tcp", 443, 443)] * 2
    assert instance(stack)["SecurityGroupIds"] == ["<SecurityGroup>"]
    assert "KeyName" not in instance(stack)
    assert "NetworkInterfaces" not in instance(stack)


def test_metadata_and_disk(stack: Stack) -> None:
    """The metadata require a token and cannot be reached from containers; the disk is encrypted and deleted with the
    instance.
    """
    options = instance(stack)["MetadataOptions"]
    assert (options["HttpTokens"], options["HttpPutResponseHopLimit"]) == ("required", 1)
    (disk,) = instance(stack)["BlockDeviceMappings"]
    assert (disk["Ebs"]["Encrypted"], disk["Ebs"]["VolumeType"]) == (True, "gp3")
    assert disk["Ebs"]["DeleteOnTermination"] is True
    assert set(stack.resource("Instance")) == {"SubnetId", "LaunchTemplate"}


@pytest.mark.parametrize("kind", read_stack({}).template["Parameters"]["InstanceType"]["AllowedValues"])
def test_image_matches_the_processor(kind: str) -> None:
    """Each instance type gets Amazon Linux 2023 for its own processor."""
    image = instance(read_stack({**SOURCE, "InstanceType": kind}))["ImageId"]
    # Families with a g after the generation have Graviton processors.
    architecture = "arm64" if re.fullmatch(r"[a-z]+\dg\..+", kind) else "x86_64"
    assert image == f"/aws/service/ami-amazon-linux-latest/al2023-ami-kernel-default-{architecture}"


@pytest.mark.parametrize("name", ["iam_role_config.yml", "prompt_caching.yml"])
@pytest.mark.parametrize("region", SERVED)
def test_bedrock_policy(region: str, name: str) -> None:
    """The role has exactly the permissions that `litellmctl iam-policy` prints for the configuration in this region.

    CloudFormation can't work out the regions behind a profile. A `*` stands for them: the condition leaves of it what
    the profile reaches.
    """
    assert name in read_stack({}).template["Parameters"]["Configuration"]["AllowedValues"]
    config = shipped_config(name, region)
    grants = [build_grant(each, account=ACCOUNT) for each in build_served(config, {"AWS_REGION_NAME": region})]
    printed = build_policy(tuple(grant for grant in grants if grant is not None))["Statement"]
    written = statements(read_stack(SOURCE, region))["bedrock"]
    assert sorted(set(rights(written))) == sorted(set(rights(printed)))


def test_cloudwatch_only_on_request() -> None:
    """With CloudWatch=yes the role has what `litellmctl iam-policy --with cloudwatch` adds, and otherwise not."""
    assert "cloudwatch" not in statements(read_stack(SOURCE))
    written = statements(read_stack({**SOURCE, "CloudWatch": "yes"}))["cloudwatch"]
    printed = build_cloudwatch("us-east-1", account=ACCOUNT)
    assert sorted(rights(written)) == sorted(rights(printed))


def test_database_only_on_request(tmp_path: Path) -> None:
    """With DatabaseEndpoint the role may log in as that user to that database alone, and `.env` has what the
    installer needs for it.
    """
    values = {
        **SOURCE,
        "DatabaseEndpoint": "gateway.c1.us-east-1.rds.amazonaws.com",
        "DatabaseResourceId": "db-ABC",
        "DatabaseUser": "gateway",
        "DatabaseClientGroup": "sg-12",
    }
    assert "database" not in statements(read_stack(SOURCE))
    stack = read_stack(values)
    (written,) = statements(stack)["database"]
    (printed,) = build_rds("us-east-1", "gateway", account=ACCOUNT)
    assert written["Action"] == printed["Action"]
    assert [written["Resource"]] == [each.replace("*", "db-ABC") for each in printed["Resource"]]
    assert instance(stack)["SecurityGroupIds"] == ["<SecurityGroup>", "sg-12"]
    block = re.search(r"^printf .*?^fi$", user_data(stack), re.DOTALL | re.MULTILINE)
    assert block is not None
    script = f"set -e; curl() {{ :; }}; folder={tmp_path}\n{block[0]}"
    subprocess.run(("bash", "-c", script), check=True)
    dotenv = parse_dotenv((tmp_path / ".env").read_text(), ".env")
    environment = build_settings(dotenv, installed={}, new_key=lambda: "sk-x").environment
    url = "postgresql://gateway@gateway.c1.us-east-1.rds.amazonaws.com:5432/litellm?sslmode=verify-full&sslrootcert="
    assert str(find_url(environment, {})).startswith(f"('{url}")


@pytest.mark.parametrize("region", ["us-east-1", "ap-northeast-1"])
def test_models_only_through_profiles(region: str) -> None:
    """The condition names this account's profiles in this region, which the statement above allows by name."""
    through, behind, *_ = statements(read_stack(SOURCE, region))["bedrock"]
    arn = f"arn:aws:bedrock:{region}:{ACCOUNT}:inference-profile/"
    assert behind["Condition"] == {"ArnLike": {"bedrock:InferenceProfileArn": f"{arn}*"}}
    assert all(each.startswith(arn) and "*" not in each for each in through["Resource"])


def test_role(stack: Stack) -> None:
    """The role has permissions for Bedrock, the source and Session Manager only, and only an instance can
    assume it.
    """
    role = stack.resource("Role")
    assert role["ManagedPolicyArns"] == ["arn:aws:iam::aws:policy/AmazonSSMManagedInstanceCore"]
    assert set(statements(stack)) == {"bedrock", "source"}
    (trust,) = role["AssumeRolePolicyDocument"]["Statement"]
    assert (trust["Principal"], trust["Action"]) == ({"Service": "ec2.amazonaws.com"}, "sts:AssumeRole")


def test_regions() -> None:
    """CloudFormation refuses a stack in a region that lacks a model, because the mapping has no such region."""
    assert sorted(read_stack({}).template["Mappings"]["Profiles"]) == SERVED


def test_source_policy(stack: Stack) -> None:
    """The role may read the one object with the source, and nothing in S3 if the source is downloaded by HTTPS."""
    ((source,),) = [each for name, each in statements(stack).items() if name == "source"]
    assert (source["Action"], source["Resource"]) == ("s3:GetObject", "arn:aws:s3:::bucket/folder/source.tar.gz")
    other = {**SOURCE, "SourceUrl": "https://example.com/source.tar.gz"}
    assert set(statements(read_stack(other))) == {"bedrock"}


@pytest.mark.parametrize(
    ("name", "value", "fits"),
    [
        ("SourceUrl", "s3://my-bucket/a/litellm-systemd.tar.gz", True),
        ("SourceUrl", "https://example.com/archive/refs/tags/v0.1.0.tar.gz", True),
        ("SourceUrl", "http://example.com/source.tar.gz", False),
        ("SourceUrl", "https://example.com/source.tar.gz?token=x", False),
        ("SourceUrl", "https://example.com/$(reboot)", False),
        ("SourceUrl", "https://example.com/a b", False),
        ("SourceUrl", "https://example.com/a'b", False),
        ("SourceSha256", "ab" * 32, True),
        ("SourceSha256", "AB" * 32, False),
        ("SourceSha256", "ab" * 31, False),
        ("DatabaseEndpoint", "gateway.c1.eu-west-1.rds.amazonaws.com", True),
        ("DatabaseEndpoint", "$(reboot).rds.amazonaws.com", False),
        ("DatabaseEndpoint", "db.example.com", False),
        ("DatabaseUser", "a b", False),
        ("DatabaseName", "a;b", False),
    ],
)
def test_parameters_that_reach_the_script(name: str, value: str, fits: bool) -> None:
    """A value that is inserted into the script, which root runs, cannot contain a shell's special characters."""
    pattern = read_stack({}).template["Parameters"][name]["AllowedPattern"]
    assert bool(re.fullmatch(pattern, value)) is fits


def test_user_data(stack: Stack, tmp_path: Path) -> None:
    """The script has no CloudFormation syntax left, fits into user data, and passes bash and shellcheck."""
    text = user_data(stack)
    script = tmp_path / "user-data"
    script.write_text(text)
    assert not re.search(r"\$\{(AWS::|Source|Configuration|Handle)", text)
    # 16 KB, minus the maximum length of the address of the handle.
    assert len(text) < 12_000
    subprocess.run(("bash", "-n", str(script)), check=True)
    done = subprocess.run((f"{sys.prefix}/bin/shellcheck", str(script)), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


def test_outputs(stack: Stack) -> None:
    """The outputs are commands to copy, with the port and the key of this service."""
    outputs = {name: stack.resolve(each["Value"]) for name, each in stack.template["Outputs"].items()}
    start = "aws ssm start-session --region us-east-1 --target <Instance>"
    assert outputs["Forward"] == (
        f"{start} --document-name AWS-StartPortForwardingSession"
        """ --parameters '{"portNumber":["4000"],"localPortNumber":["4000"]}'"""
    )
    assert outputs["Key"] == (
        f"{start} --document-name AWS-StartInteractiveCommand"
        """ --parameters '{"command":["sudo grep LITELLM_MASTER_KEY /etc/litellm/litellm.env"]}'"""
    )
    assert outputs["Shell"] == start
