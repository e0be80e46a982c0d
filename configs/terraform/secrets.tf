# One master key and one salt key for all instances. Terraform generates them, writes them to Secrets Manager and forgets
# them: an `ephemeral` value and a write-only argument (`_wo`) are in no state and no plan. To generate another value, raise
# its version.
#
# AWS's own key of Secrets Manager encrypts them. A key of yours could be deleted, and would take all of them with it.

ephemeral "random_password" "master_key" {
  length  = 48
  special = false
}

ephemeral "random_password" "salt_key" {
  length  = 48
  special = false
}

ephemeral "random_password" "database" {
  length  = 48
  special = false
}

resource "aws_secretsmanager_secret" "master_key" {
  #checkov:skip=CKV_AWS_149:AWS's key is enough, see above
  #checkov:skip=CKV2_AWS_57:Clients hold it - litellmctl rotate-key with an overlap replaces it
  name_prefix = "${var.name}-master-key-"
  description = "The master key of the LiteLLM gateway ${var.name}"

  lifecycle {
    prevent_destroy = true
  }
}

resource "aws_secretsmanager_secret_version" "master_key" {
  secret_id                = aws_secretsmanager_secret.master_key.id
  secret_string_wo         = "sk-${ephemeral.random_password.master_key.result}"
  secret_string_wo_version = 1
}

# Without it, what a snapshot of the database has encrypted is lost.
resource "aws_secretsmanager_secret" "salt_key" {
  #checkov:skip=CKV_AWS_149:AWS's key is enough, see above
  #checkov:skip=CKV2_AWS_57:Another one makes unreadable what the database has encrypted
  name_prefix = "${var.name}-salt-key-"
  description = "The salt key of the LiteLLM gateway ${var.name}. Never change it."

  lifecycle {
    prevent_destroy = true
  }
}

resource "aws_secretsmanager_secret_version" "salt_key" {
  secret_id                = aws_secretsmanager_secret.salt_key.id
  secret_string_wo         = ephemeral.random_password.salt_key.result
  secret_string_wo_version = 1

  lifecycle {
    prevent_destroy = true
  }
}

resource "aws_secretsmanager_secret" "database_password" {
  #checkov:skip=CKV_AWS_149:AWS's key is enough, see above
  #checkov:skip=CKV2_AWS_57:The database has no public address, and a rotation restarts the service
  name_prefix             = "${var.name}-database-"
  description             = "The password of the database of ${var.name}"
  recovery_window_in_days = 0
}

resource "aws_secretsmanager_secret_version" "database_password" {
  secret_id                = aws_secretsmanager_secret.database_password.id
  secret_string_wo         = ephemeral.random_password.database.result
  secret_string_wo_version = 1
}

# What is stored, not what was generated: an apply that failed in between has generated another password since.
ephemeral "aws_secretsmanager_secret_version" "database_password" {
  secret_id = aws_secretsmanager_secret_version.database_password.secret_id
}

# The only secret in the state: the provider has no write-only argument for the token of a cache.
resource "random_password" "cache_token" {
  length  = 48
  special = false
}

resource "aws_secretsmanager_secret" "cache_token" {
  #checkov:skip=CKV_AWS_149:AWS's key is enough, see above
  #checkov:skip=CKV2_AWS_57:The cache has no public address, and a rotation restarts the service
  name_prefix             = "${var.name}-cache-"
  description             = "The token of the cache of ${var.name}"
  recovery_window_in_days = 0
}

resource "aws_secretsmanager_secret_version" "cache_token" {
  secret_id     = aws_secretsmanager_secret.cache_token.id
  secret_string = random_password.cache_token.result
}
