data "aws_iam_policy_document" "trust" {
  for_each = toset(["ec2", "monitoring.rds"])

  statement {
    actions = ["sts:AssumeRole"]

    principals {
      type        = "Service"
      identifiers = ["${each.key}.amazonaws.com"]
    }
  }
}

resource "aws_iam_role" "instance" {
  name_prefix        = "${var.name}-instance-"
  description        = "The LiteLLM gateway ${var.name}"
  assume_role_policy = data.aws_iam_policy_document.trust["ec2"].json
}

resource "aws_iam_instance_profile" "instance" {
  name_prefix = "${var.name}-instance-"
  role        = aws_iam_role.instance.name
}

resource "aws_iam_role_policy_attachment" "session_manager" {
  role       = aws_iam_role.instance.name
  policy_arn = "arn:${local.partition}:iam::aws:policy/AmazonSSMManagedInstanceCore"
}

resource "aws_iam_role_policy_attachment" "models" {
  count = var.model_policy_arn == "" ? 0 : 1

  role       = aws_iam_role.instance.name
  policy_arn = var.model_policy_arn
}

data "aws_iam_policy_document" "secrets" {
  statement {
    sid     = "ReadSecrets"
    actions = ["secretsmanager:GetSecretValue"]
    resources = [
      aws_secretsmanager_secret.master_key.arn,
      aws_secretsmanager_secret.salt_key.arn,
      aws_secretsmanager_secret.database_password.arn,
      aws_secretsmanager_secret.cache_token.arn,
    ]
  }
}

data "aws_iam_policy_document" "lifecycle" {
  statement {
    sid       = "CompleteLifecycleAction"
    actions   = ["autoscaling:CompleteLifecycleAction"]
    resources = ["arn:${local.partition}:autoscaling:${local.region}:${local.account}:autoScalingGroup:*:autoScalingGroupName/${var.name}"]
  }
}

# As `litellmctl iam-policy --with cloudwatch` prints it, for the log groups of this fleet.
data "aws_iam_policy_document" "cloudwatch" {
  #checkov:skip=CKV_AWS_356:AWS has no resources for PutMetricData, the condition restricts the namespace
  statement {
    sid = "WriteLogs"
    actions = [
      "logs:CreateLogGroup",
      "logs:CreateLogStream",
      "logs:DescribeLogStreams",
      "logs:PutLogEvents",
      "logs:PutRetentionPolicy",
    ]
    resources = ["arn:${local.partition}:logs:${local.region}:${local.account}:log-group:/litellm/${var.name}/*"]
  }

  statement {
    sid       = "ListLogGroups"
    actions   = ["logs:DescribeLogGroups"]
    resources = ["arn:${local.partition}:logs:${local.region}:${local.account}:log-group:*"]
  }

  statement {
    sid       = "PutMetrics"
    actions   = ["cloudwatch:PutMetricData"]
    resources = ["*"]

    condition {
      test     = "StringEquals"
      variable = "cloudwatch:namespace"
      values   = ["LiteLLM"]
    }
  }
}

resource "aws_iam_role_policy" "instance" {
  for_each = {
    secrets    = data.aws_iam_policy_document.secrets.json
    lifecycle  = data.aws_iam_policy_document.lifecycle.json
    cloudwatch = data.aws_iam_policy_document.cloudwatch.json
  }

  name   = each.key
  role   = aws_iam_role.instance.id
  policy = each.value
}

data "aws_iam_policy_document" "source" {
  count = startswith(var.source_url, "s3://") ? 1 : 0

  statement {
    actions   = ["s3:GetObject"]
    resources = ["arn:${local.partition}:s3:::${trimprefix(var.source_url, "s3://")}"]
  }
}

resource "aws_iam_role_policy" "source" {
  count = startswith(var.source_url, "s3://") ? 1 : 0

  name   = "source"
  role   = aws_iam_role.instance.id
  policy = data.aws_iam_policy_document.source[0].json
}
