data "aws_ssm_parameter" "image" {
  name = var.image
}

resource "aws_launch_template" "instance" {
  name_prefix            = "${var.name}-"
  image_id               = nonsensitive(data.aws_ssm_parameter.image.value)
  instance_type          = var.instance_type
  vpc_security_group_ids = [aws_security_group.instance.id]
  ebs_optimized          = true

  iam_instance_profile {
    arn = aws_iam_instance_profile.instance.arn
  }

  monitoring {
    enabled = true
  }

  metadata_options {
    http_endpoint = "enabled"
    http_tokens   = "required"
    # Containers on the instance get no response.
    http_put_response_hop_limit = 1
  }

  block_device_mappings {
    device_name = "/dev/xvda"

    ebs {
      volume_type           = "gp3"
      volume_size           = 16
      encrypted             = "true"
      delete_on_termination = "true"
    }
  }

  tag_specifications {
    resource_type = "volume"

    tags = {
      Name = var.name
    }
  }

  user_data = base64encode(templatefile("${path.module}/user-data.sh.tftpl", {
    name              = var.name
    region            = local.region
    source_url        = var.source_url
    source_sha256     = var.source_sha256
    configuration     = var.configuration
    vpc_cidr          = var.vpc_cidr
    master_key        = aws_secretsmanager_secret_version.master_key.arn
    salt_key          = aws_secretsmanager_secret_version.salt_key.arn
    database_host     = aws_db_instance.database.address
    database_password = aws_secretsmanager_secret_version.database_password.arn
    redis_host        = aws_elasticache_replication_group.cache.primary_endpoint_address
    redis_password    = aws_secretsmanager_secret_version.cache_token.arn
  }))
}

resource "aws_autoscaling_group" "gateway" {
  #checkov:skip=CKV_AWS_315:It has a launch template - the rule does not follow the reference
  # The role and the instances name the group.
  name                      = var.name
  min_size                  = var.min_size
  max_size                  = var.max_size
  vpc_zone_identifier       = var.subnets
  target_group_arns         = [aws_lb_target_group.gateway.arn]
  health_check_type         = "ELB"
  health_check_grace_period = 60
  default_instance_warmup   = 120
  metrics_granularity       = "1Minute"
  enabled_metrics           = ["GroupDesiredCapacity", "GroupInServiceInstances", "GroupPendingInstances", "GroupTerminatingInstances"]
  # Apply fails if the instances do not serve in this time.
  min_elb_capacity          = var.min_size
  wait_for_capacity_timeout = "25m"

  launch_template {
    id      = aws_launch_template.instance.id
    version = aws_launch_template.instance.latest_version
  }

  instance_maintenance_policy {
    min_healthy_percentage = 100
    max_healthy_percentage = 110
  }

  # If an alarm is raised or an instance does not become healthy, the refresh fails, and a second one restores the previous
  # version of the launch template.
  instance_refresh {
    strategy = "Rolling"

    preferences {
      auto_rollback                = true
      min_healthy_percentage       = 100
      max_healthy_percentage       = 110
      instance_warmup              = 120
      standby_instances            = "Ignore"
      scale_in_protected_instances = "Refresh"

      alarm_specification {
        alarms = [
          aws_cloudwatch_metric_alarm.server_errors.alarm_name,
          aws_cloudwatch_metric_alarm.unhealthy_instances.alarm_name,
        ]
      }
    }
  }

  initial_lifecycle_hook {
    name                 = "launch"
    lifecycle_transition = "autoscaling:EC2_INSTANCE_LAUNCHING"
    heartbeat_timeout    = 1500
    default_result       = "ABANDON"
  }

  # DEREGISTRATION_DELAY, DRAIN_TIMEOUT and a margin.
  initial_lifecycle_hook {
    name                 = "drain"
    lifecycle_transition = "autoscaling:EC2_INSTANCE_TERMINATING"
    heartbeat_timeout    = 900
    default_result       = "CONTINUE"
  }

  dynamic "warm_pool" {
    for_each = var.warm_pool == 0 ? [] : [var.warm_pool]

    content {
      min_size   = warm_pool.value
      pool_state = "Stopped"
    }
  }

  tag {
    key                 = "Name"
    value               = var.name
    propagate_at_launch = true
  }

  # Without its listener, the load balancer checks no target. Without its rights and rules, an instance cannot serve.
  depends_on = [
    aws_lb_listener.https,
    aws_iam_role_policy.instance,
    aws_iam_role_policy.source,
    aws_iam_role_policy_attachment.session_manager,
    aws_iam_role_policy_attachment.models,
    aws_vpc_security_group_egress_rule.balancer_to_gateway,
    aws_vpc_security_group_ingress_rule.gateway_from_balancer,
    aws_vpc_security_group_egress_rule.https,
    aws_vpc_security_group_egress_rule.database,
    aws_vpc_security_group_egress_rule.cache,
    aws_vpc_security_group_ingress_rule.database,
    aws_vpc_security_group_ingress_rule.cache,
  ]

  lifecycle {
    # The scaling policies set it.
    ignore_changes = [desired_capacity]
  }
}

resource "aws_autoscaling_policy" "requests" {
  name                   = "${var.name}-requests"
  autoscaling_group_name = aws_autoscaling_group.gateway.name
  policy_type            = "TargetTrackingScaling"

  target_tracking_configuration {
    target_value = var.requests_per_minute

    predefined_metric_specification {
      predefined_metric_type = "ALBRequestCountPerTarget"
      resource_label         = "${aws_lb.gateway.arn_suffix}/${aws_lb_target_group.gateway.arn_suffix}"
    }
  }
}

# A request of a coding agent runs for seconds to minutes: the number of those in flight is the load.
resource "aws_autoscaling_policy" "requests_in_flight" {
  name                   = "${var.name}-requests-in-flight"
  autoscaling_group_name = aws_autoscaling_group.gateway.name
  policy_type            = "TargetTrackingScaling"

  target_tracking_configuration {
    target_value = var.requests_in_flight

    customized_metric_specification {
      namespace   = "LiteLLM"
      metric_name = "litellm_systemd_requests_in_flight"
      statistic   = "Average"

      metric_dimension {
        name  = "fleet"
        value = var.name
      }
    }
  }
}
