resource "aws_elasticache_subnet_group" "cache" {
  name        = var.name
  description = "The cache of ${var.name}"
  subnet_ids  = var.subnets
}

resource "aws_elasticache_replication_group" "cache" {
  #checkov:skip=CKV_AWS_191:AWS's key is enough for counters and cached answers
  replication_group_id       = var.name
  description                = "Limits, cooldowns and cache of ${var.name}"
  engine                     = "valkey"
  engine_version             = "8.0"
  node_type                  = var.cache_class
  num_cache_clusters         = 2
  automatic_failover_enabled = true
  multi_az_enabled           = true
  transit_encryption_enabled = true
  at_rest_encryption_enabled = true
  auth_token                 = random_password.cache_token.result
  subnet_group_name          = aws_elasticache_subnet_group.cache.name
  security_group_ids         = [aws_security_group.cache.id]
  auto_minor_version_upgrade = true
  snapshot_retention_limit   = 0
}
