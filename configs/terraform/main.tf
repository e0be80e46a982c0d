# The LiteLLM Proxy on an Auto Scaling group behind an Application Load Balancer, with PostgreSQL for keys and spend and
# Valkey for shared limits: the same as ../cloudformation/fleet.yaml, whose parameters are the variables here. See
# docs/terraform.md of litellm-systemd.
#
#   secrets.tf        master key, salt key, password of the database, token of the cache
#   iam.tf            what an instance may do
#   network.tf        security groups
#   load_balancer.tf  load balancer, target group, health check
#   instances.tf      launch template, Auto Scaling group, scaling
#   database.tf       PostgreSQL
#   cache.tf          Valkey
#   alarms.tf         log groups and alarms

data "aws_region" "current" {}

data "aws_caller_identity" "current" {}

data "aws_partition" "current" {}

locals {
  region    = data.aws_region.current.region
  account   = data.aws_caller_identity.current.account_id
  partition = data.aws_partition.current.partition
  port      = 4000
}
