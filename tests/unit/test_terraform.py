"""configs/terraform: the same fleet as configs/cloudformation/fleet.yaml, compared by subject."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.cloudformation import FLEET, Stack, as_list, read_stack, user_data
from tests.skipping import refuse
from tests.terraform import MODULE, read_module, render_template

CHECKOV = Path(__file__).resolve().parents[2] / ".cache/checkov/bin/checkov"
#: Values of the variables, and of what only AWS knows: in the template, the names of the resources stand for it.
VALUES = {
    "SourceUrl": "s3://bucket/folder/source.tar.gz",
    "SourceSha256": "0" * 64,
    "Configuration": "my.yml",
    "VpcCidr": "10.1.0.0/16",
}
RENDERED = {
    "name": "gateway",
    "region": "us-east-1",
    "source_url": VALUES["SourceUrl"],
    "source_sha256": VALUES["SourceSha256"],
    "configuration": VALUES["Configuration"],
    "vpc_cidr": VALUES["VpcCidr"],
    "master_key": "<MasterKey>",
    "salt_key": "<SaltKey>",
    "database_host": "<Database.Endpoint.Address>",
    "database_password": "<DatabasePassword>",
    "redis_host": "<Cache.PrimaryEndPoint.Address>",
    "redis_password": "<CacheToken>",
}

Module = dict[str, dict[str, Any]]


@pytest.fixture(scope="module")
def module() -> Module:
    return read_module()


@pytest.fixture(scope="module")
def stack() -> Stack:
    return read_stack(VALUES, template=FLEET)


def snake(name: str) -> str:
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name).lower()


def test_variables(module: Module, stack: Stack) -> None:
    """The variables are the parameters of the template, with the same defaults and the same accepted values."""
    parameters = {snake(name): each for name, each in stack.template["Parameters"].items()}
    variables = {name.removeprefix("var."): each for name, each in module.items() if name.startswith("var.")}
    assert variables.keys() == {"name", *parameters}
    for name, parameter in parameters.items():
        assert variables[name].get("default") == parameter.get("Default"), name
        conditions = [each["condition"] for each in variables[name].get("validation", ())]
        if "AllowedPattern" in parameter:
            escaped = parameter["AllowedPattern"].replace("\\", "\\\\")
            assert f'${{can(regex("^({escaped})$", var.{name}))}}' in conditions
        if "MinValue" in parameter:
            assert conditions == [f"${{var.{name} >= {parameter['MinValue']}}}"]
        if "AllowedValues" in parameter:
            assert conditions == [f"${{contains({json.dumps(parameter['AllowedValues'])}, var.{name})}}"]


def test_user_data(stack: Stack) -> None:
    """An instance runs the same script, and gets the same .env, except for the signal to CloudFormation."""
    signals = ("cfn-signal", "The signal fails a new stack at once.")
    lines = [line for line in user_data(stack).splitlines() if not any(each in line for each in signals)]
    assert render_template(RENDERED).splitlines() == squeeze(lines)
    given = re.findall(r"^    (\w+) += ", (MODULE / "instances.tf").read_text(encoding="utf-8"), re.MULTILINE)
    assert RENDERED.keys() <= set(given)


def squeeze(lines: list[str]) -> list[str]:
    """Without the second of two empty lines."""
    return [line for before, line in zip(["x", *lines], lines, strict=False) if before or line]


def test_script(tmp_path: Path) -> None:
    """The script has no placeholder left, and passes bash and shellcheck."""
    script = tmp_path / "user-data"
    script.write_text(render_template(RENDERED), encoding="utf-8")
    subprocess.run(("bash", "-n", str(script)), check=True)
    done = subprocess.run((f"{sys.prefix}/bin/shellcheck", str(script)), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


def test_load_balancer(module: Module, stack: Stack) -> None:
    """Health check, times and TLS policy are the same."""
    group, target = module["aws_lb_target_group.gateway"], stack.resource("TargetGroup")
    (check,) = group["health_check"]
    assert check == {
        "path": target["HealthCheckPath"],
        "interval": target["HealthCheckIntervalSeconds"],
        "timeout": target["HealthCheckTimeoutSeconds"],
        "healthy_threshold": target["HealthyThresholdCount"],
        "unhealthy_threshold": target["UnhealthyThresholdCount"],
        "matcher": target["Matcher"]["HttpCode"],
    }
    attributes = attributes_of(target["TargetGroupAttributes"])
    assert attributes == {
        "deregistration_delay.timeout_seconds": str(group["deregistration_delay"]),
        "slow_start.duration_seconds": str(group["slow_start"]),
    }
    assert (group["port"], module["local.port"]) == ("${local.port}", target["Port"])
    balancer = module["aws_lb.gateway"]
    assert attributes_of(stack.resource("LoadBalancer")["LoadBalancerAttributes"]) == {
        "idle_timeout.timeout_seconds": str(balancer["idle_timeout"]),
        "routing.http.drop_invalid_header_fields.enabled": str(balancer["drop_invalid_header_fields"]).lower(),
        "deletion_protection.enabled": str(balancer["enable_deletion_protection"]).lower(),
    }
    listener, template = module["aws_lb_listener.https"], stack.resource("Listener")
    assert (listener["port"], listener["protocol"], listener["ssl_policy"]) == (
        template["Port"],
        template["Protocol"],
        template["SslPolicy"],
    )


def attributes_of(pairs: list[dict[str, str]]) -> dict[str, str]:
    return {each["Key"]: each["Value"] for each in pairs}


def test_role(module: Module, stack: Stack) -> None:
    """An instance may do the same on the same resources."""
    written = {}
    for policy in stack.resource("Role")["Policies"]:
        for statement in policy["PolicyDocument"]["Statement"]:
            written[policy["PolicyName"], statement.get("Sid")] = (
                as_list(statement["Action"]),
                [arn.replace("/gateway", "/${var.name}") for arn in as_list(statement["Resource"])],
                statement.get("Condition"),
            )
    named = {
        "<MasterKey>": "${aws_secretsmanager_secret.master_key.arn}",
        "<SaltKey>": "${aws_secretsmanager_secret.salt_key.arn}",
        "<DatabasePassword>": "${aws_secretsmanager_secret.database_password.arn}",
        "<CacheToken>": "${aws_secretsmanager_secret.cache_token.arn}",
    }
    account = {"${local.partition}": "aws", "${local.region}": "us-east-1", "${local.account}": "123456789012"}
    account['${trimprefix(var.source_url, "s3://")}'] = VALUES["SourceUrl"].removeprefix("s3://")
    found = {}
    policies = {
        **module["aws_iam_role_policy.instance"]["for_each"],
        "source": module["aws_iam_role_policy.source"]["policy"],
    }
    for address, document in module.items():
        name = address.removeprefix("data.aws_iam_policy_document.")
        if name == address or name.endswith("trust"):
            continue
        assert policies[name] in (f"${{data.aws_iam_policy_document.{name}{which}.json}}" for which in ("", "[0]"))
        for statement in document["statement"]:
            arns = statement["resources"]
            for expression, value in account.items():
                arns = [arn.replace(expression, value) for arn in arns]
            conditions = {
                each["test"]: {each["variable"]: each["values"][0]} for each in statement.get("condition", ())
            }
            found[name, statement.get("sid")] = (statement["actions"], arns, conditions or None)
    expected = {
        key: (actions, [named.get(arn, arn) for arn in arns], test) for key, (actions, arns, test) in written.items()
    }
    assert found == expected
    attached = {each["policy_arn"] for name, each in module.items() if "role_policy_attachment" in name}
    assert attached == {
        "arn:${local.partition}:iam::aws:policy/AmazonSSMManagedInstanceCore",
        "arn:${local.partition}:iam::aws:policy/service-role/AmazonRDSEnhancedMonitoringRole",
        "${var.model_policy_arn}",
    }


def test_ports(module: Module, stack: Stack) -> None:
    """The same ports are open, with the same sources. (In CloudFormation a group without a rule may send anything, so
    that two of them have a rule for nothing.)
    """
    rules = [
        (rule["description"], str(rule["from_port"]).replace("${local.port}", "4000"))
        for name, rule in module.items()
        if name.startswith("aws_vpc_security_group_")
    ]
    written = []
    for name, resource in stack.template["Resources"].items():
        properties = stack.resource(name)
        if resource["Type"] == "AWS::EC2::SecurityGroup":
            both = (*properties.get("SecurityGroupIngress", ()), *properties.get("SecurityGroupEgress", ()))
            written += [(each["Description"], str(each["FromPort"])) for each in both]
        elif resource["Type"].startswith("AWS::EC2::SecurityGroup"):
            written.append((properties["Description"], str(properties["FromPort"])))
    assert sorted(rules) == sorted(each for each in written if each != ("Nothing", "1"))


def test_instances(module: Module, stack: Stack) -> None:
    """Launch template, group, refresh, hooks and scaling are the same."""
    template, written = module["aws_launch_template.instance"], stack.resource("LaunchTemplate")["LaunchTemplateData"]
    (metadata,) = template["metadata_options"]
    assert metadata == {snake(name): value for name, value in written["MetadataOptions"].items()}
    ((disk,),) = (each["ebs"] for each in template["block_device_mappings"])
    assert disk == {
        snake(name): str(value).lower() if isinstance(value, bool) else value
        for name, value in written["BlockDeviceMappings"][0]["Ebs"].items()
    }
    group, written = module["aws_autoscaling_group.gateway"], stack.resource("Group")
    assert (group["health_check_type"], group["health_check_grace_period"], group["default_instance_warmup"]) == (
        written["HealthCheckType"],
        written["HealthCheckGracePeriod"],
        written["DefaultInstanceWarmup"],
    )
    assert group["initial_lifecycle_hook"] == [
        {
            "name": hook["LifecycleHookName"],
            "lifecycle_transition": hook["LifecycleTransition"],
            "heartbeat_timeout": hook["HeartbeatTimeout"],
            "default_result": hook["DefaultResult"],
        }
        for hook in written["LifecycleHookSpecificationList"]
    ]
    update = stack.template["Resources"]["Group"]["UpdatePolicy"]["AutoScalingInstanceRefresh"]
    (refresh,) = group["instance_refresh"]
    (preferences,) = refresh["preferences"]
    wanted = {snake(name): value for name, value in update["Preferences"].items()}
    alarms = [
        re.sub(r".*\.(\w+)\.alarm_name.*", r"\1", each) for each in preferences["alarm_specification"][0]["alarms"]
    ]
    assert alarms == [snake(each["Ref"]) for each in wanted.pop("alarm_specification")["Alarms"]]
    # The provider does not know it.
    del wanted["bake_time"]
    assert {name: preferences[name] for name in wanted} == wanted
    assert preferences["auto_rollback"] is True
    for name, policy in (("requests", "ScaleByRequests"), ("requests_in_flight", "ScaleByRequestsInFlight")):
        (tracking,) = module[f"aws_autoscaling_policy.{name}"]["target_tracking_configuration"]
        target = stack.template["Resources"][policy]["Properties"]["TargetTrackingConfiguration"]
        assert tracking["target_value"] == f"${{var.{snake(target['TargetValue']['Ref'])}}}"
    (metric,) = tracking["customized_metric_specification"]
    custom = target["CustomizedMetricSpecification"]
    assert (metric["namespace"], metric["metric_name"], metric["statistic"]) == (
        custom["Namespace"],
        custom["MetricName"],
        custom["Statistic"],
    )


def test_database_and_cache(module: Module, stack: Stack) -> None:
    """PostgreSQL and Valkey have the same version, size, redundancy and encryption."""
    names = {
        "Engine": "engine",
        "EngineVersion": "engine_version",
        "DBName": "db_name",
        "MasterUsername": "username",
        "AllocatedStorage": "allocated_storage",
        "MaxAllocatedStorage": "max_allocated_storage",
        "StorageType": "storage_type",
        "StorageEncrypted": "storage_encrypted",
        "MultiAZ": "multi_az",
        "PubliclyAccessible": "publicly_accessible",
        "BackupRetentionPeriod": "backup_retention_period",
        "DeletionProtection": "deletion_protection",
        "EnableIAMDatabaseAuthentication": "iam_database_authentication_enabled",
        "EnableCloudwatchLogsExports": "enabled_cloudwatch_logs_exports",
        "MonitoringInterval": "monitoring_interval",
    }
    written, found = stack.resource("Database"), module["aws_db_instance.database"]
    assert {each: str(written[each]) for each in names} == {each: str(found[name]) for each, name in names.items()}
    names = {
        "Engine": "engine",
        "EngineVersion": "engine_version",
        "NumCacheClusters": "num_cache_clusters",
        "AutomaticFailoverEnabled": "automatic_failover_enabled",
        "MultiAZEnabled": "multi_az_enabled",
        "TransitEncryptionEnabled": "transit_encryption_enabled",
        "AtRestEncryptionEnabled": "at_rest_encryption_enabled",
        "SnapshotRetentionLimit": "snapshot_retention_limit",
    }
    written, found = stack.resource("Cache"), module["aws_elasticache_replication_group.cache"]
    assert {each: str(written[each]) for each in names} == {each: str(found[name]) for each, name in names.items()}


def test_alarms(module: Module, stack: Stack) -> None:
    """Each alarm of the template is there, with the same metric, limit, time and description."""
    alarms = {
        name: each for name, each in stack.template["Resources"].items() if each["Type"] == "AWS::CloudWatch::Alarm"
    }
    own = {name: each for name, each in module.items() if name.startswith("aws_cloudwatch_metric_alarm.")}
    assert {f"aws_cloudwatch_metric_alarm.{snake(name)}" for name in alarms} == own.keys()
    same = ("Namespace", "MetricName", "Statistic", "Period", "EvaluationPeriods", "ComparisonOperator", "Threshold")
    for name, alarm in alarms.items():
        written, found = alarm["Properties"], own[f"aws_cloudwatch_metric_alarm.{snake(name)}"]
        for each in (*same, "TreatMissingData", "AlarmDescription"):
            assert found.get(snake(each)) == written.get(each), (name, each)
        queries = {each["Id"]: each for each in written.get("Metrics", ())}
        assert {each["id"] for each in found.get("metric_query", ())} == queries.keys()
        for query in found.get("metric_query", ()):
            wanted = queries[query["id"]]
            assert query.get("expression") == wanted.get("Expression")
            for metric in query.get("metric", ()):
                stat = wanted["MetricStat"]
                assert (metric["metric_name"], metric["period"], metric["stat"]) == (
                    stat["Metric"]["MetricName"],
                    stat["Period"],
                    stat["Stat"],
                )
    for name, group in (("journal", "JournalLogs"), ("metrics", "MetricLogs")):
        kept = module[f"aws_cloudwatch_log_group.{name}"]["retention_in_days"]
        assert kept == stack.resource(group)["RetentionInDays"]


def test_secrets_in_no_state(module: Module) -> None:
    """The token of the cache alone is in the state of Terraform: the provider has no write-only argument for it."""
    versions = {name: each for name, each in module.items() if name.startswith("aws_secretsmanager_secret_version.")}
    plain = [name for name, each in versions.items() if "secret_string" in each]
    assert plain == ["aws_secretsmanager_secret_version.cache_token"]
    assert [name for name in module if name.startswith("random_password.")] == ["random_password.cache_token"]
    assert "password" not in module["aws_db_instance.database"]
    for name in ("master_key", "salt_key"):
        (lifecycle,) = module[f"aws_secretsmanager_secret.{name}"]["lifecycle"]
        assert lifecycle == {"prevent_destroy": True}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("framework", "path"), [("terraform", MODULE), ("cloudformation", MODULE.parent / "image-builder")]
)
def test_checkov_finds_nothing(framework: str, path: Path) -> None:
    """The module passes checkov's rules. Each rule that it skips has its reason next to the resource."""
    if not CHECKOV.exists():
        refuse(f"{CHECKOV} isn't there: scripts/test.sh makes it")
    argv = (str(CHECKOV), "--framework", framework, "--skip-download", "--output", "json", "--directory", str(path))
    done = subprocess.run(argv, capture_output=True, text=True, check=False, cwd=path)
    found = json.loads(done.stdout)
    failed = [f"{each['check_id']} {each['resource']}" for each in found["results"]["failed_checks"]]
    assert (failed, found["summary"]["parsing_errors"]) == ([], 0)
    skipped = found["results"]["skipped_checks"]
    assert all(len(each["check_result"]["suppress_comment"]) > 20 for each in skipped)
    # No suppression outlives its cause.
    written = sum(each.read_text(encoding="utf-8").count("#checkov:skip=") for each in path.glob("*.tf"))
    assert len(skipped) == written


def test_formatted() -> None:
    """`terraform fmt` changes nothing. Only where Terraform is installed."""
    if shutil.which("terraform") is None:
        pytest.skip("Terraform is not installed")
    done = subprocess.run(
        ("terraform", "fmt", "-check", "-diff", str(MODULE)), capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout
