resource "aws_db_subnet_group" "database" {
  name        = var.name
  description = "The database of ${var.name}"
  subnet_ids  = var.subnets
}

resource "aws_iam_role" "database_monitoring" {
  name_prefix        = "${var.name}-monitoring-"
  description        = "Enhanced monitoring of the database of ${var.name}"
  assume_role_policy = data.aws_iam_policy_document.trust["monitoring.rds"].json
}

resource "aws_iam_role_policy_attachment" "database_monitoring" {
  role       = aws_iam_role.database_monitoring.name
  policy_arn = "arn:${local.partition}:iam::aws:policy/service-role/AmazonRDSEnhancedMonitoringRole"
}

resource "aws_db_instance" "database" {
  #checkov:skip=CKV_AWS_354:AWS's key is enough for figures about queries
  #checkov:skip=CKV2_AWS_30:A log of queries would hold what LiteLLM stores
  identifier = var.name
  engine     = "postgres"
  # The major version alone stays right after AWS's automatic upgrades of the minor one.
  engine_version = "17"
  instance_class = var.database_class

  db_name             = "litellm"
  username            = "litellm"
  password_wo         = ephemeral.aws_secretsmanager_secret_version.database_password.secret_string
  password_wo_version = aws_secretsmanager_secret_version.database_password.secret_string_wo_version

  allocated_storage     = 50
  max_allocated_storage = 500
  storage_type          = "gp3"
  storage_encrypted     = true

  multi_az               = true
  publicly_accessible    = false
  db_subnet_group_name   = aws_db_subnet_group.database.name
  vpc_security_group_ids = [aws_security_group.database.id]

  backup_retention_period   = 7
  copy_tags_to_snapshot     = true
  deletion_protection       = true
  skip_final_snapshot       = false
  final_snapshot_identifier = "${var.name}-final"

  auto_minor_version_upgrade          = true
  iam_database_authentication_enabled = true
  performance_insights_enabled        = true
  enabled_cloudwatch_logs_exports     = ["postgresql", "upgrade"]
  monitoring_interval                 = 60
  monitoring_role_arn                 = aws_iam_role.database_monitoring.arn
}
