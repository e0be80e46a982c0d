variable "name" {
  description = "The name of the fleet: of the group, the database, the cache and the log groups. In CloudFormation, the name of the stack."
  type        = string
  default     = "litellm"

  validation {
    condition     = can(regex("^[a-z][a-z0-9-]{0,20}$", var.name))
    error_message = "must have at most 21 letters, digits and hyphens."
  }
}

# --- Network

variable "vpc_id" {
  description = "The VPC."
  type        = string
}

variable "vpc_cidr" {
  description = "The IPv4 range of the VPC, from which the load balancer connects."
  type        = string
  default     = "10.0.0.0/16"

  validation {
    condition     = can(regex("^(([0-9]{1,3}\\.){3}[0-9]{1,3}/[0-9]{1,2})$", var.vpc_cidr))
    error_message = "must be a range such as 10.0.0.0/16."
  }
}

variable "balancer_subnets" {
  description = "A subnet in each of three zones for the load balancer. Public ones with scheme = \"internet-facing\"."
  type        = list(string)
}

variable "subnets" {
  description = "A private subnet in each of the same zones for instances, database and cache, with outbound HTTPS through a NAT gateway or VPC endpoints."
  type        = list(string)
}

variable "scheme" {
  description = "internal accepts clients in the VPC and in networks that are connected to it."
  type        = string
  default     = "internal"

  validation {
    condition     = contains(["internal", "internet-facing"], var.scheme)
    error_message = "must be internal or internet-facing."
  }
}

variable "client_cidr" {
  description = "The IPv4 range that clients connect from."
  type        = string
  default     = "10.0.0.0/8"

  validation {
    condition     = can(regex("^(([0-9]{1,3}\\.){3}[0-9]{1,3}/[0-9]{1,2})$", var.client_cidr))
    error_message = "must be a range such as 10.0.0.0/8."
  }
}

variable "certificate_arn" {
  description = "A certificate in ACM, in this region, for the name under which clients reach the load balancer."
  type        = string

  validation {
    condition     = can(regex("^(arn:aws[a-z-]*:acm:[a-z0-9-]+:[0-9]{12}:certificate/[0-9a-f-]+)$", var.certificate_arn))
    error_message = "must be the ARN of a certificate in ACM."
  }
}

# --- Software

variable "source_url" {
  description = "litellm-systemd as a .tar.gz: s3://BUCKET/KEY (the role can read only this object) or https://... Empty with an image that has it."
  type        = string
  default     = ""

  validation {
    condition     = can(regex("^(((s3://[a-z0-9.-]{3,63}/|https://[A-Za-z0-9.-]+(:[0-9]+)?/)[A-Za-z0-9/._~%+=,@-]+)?)$", var.source_url))
    error_message = "must be s3://BUCKET/KEY or https://HOST/PATH, without a query."
  }

  validation {
    condition     = var.source_url == "" || var.source_sha256 != ""
    error_message = "source_url needs source_sha256."
  }
}

variable "source_sha256" {
  description = "The output of `sha256sum` for that file. The instances run no other content."
  type        = string
  default     = ""

  validation {
    condition     = can(regex("^(([0-9a-f]{64})?)$", var.source_sha256))
    error_message = "must be 64 hexadecimal digits."
  }
}

variable "configuration" {
  description = "The LiteLLM configuration, a file in configs/ of the archive. demo.yml costs nothing."
  type        = string
  default     = "iam_role_config.yml"

  validation {
    condition     = can(regex("^([A-Za-z0-9_-]+\\.ya?ml)$", var.configuration))
    error_message = "must be the name of a file."
  }
}

variable "model_policy_arn" {
  description = "A managed policy that allows the models of the configuration. `litellmctl iam-policy` prints its document. Empty for demo.yml."
  type        = string
  default     = ""

  validation {
    condition     = can(regex("^((arn:aws[a-z-]*:iam::([0-9]{12}|aws):policy/[A-Za-z0-9+=,.@/_-]+)?)$", var.model_policy_arn))
    error_message = "must be the ARN of a managed policy."
  }
}

variable "image" {
  description = "A public parameter of Amazon Linux 2023, or a parameter of your own with an image that has litellm-systemd, for the processor of instance_type. A path with a version fixes the image."
  type        = string
  default     = "/aws/service/ami-amazon-linux-latest/al2023-ami-kernel-default-arm64"
}

# --- Instances

variable "instance_type" {
  description = "A t4g, m7g, c7g or later type is Graviton, as the default image. Each CPU runs one worker."
  type        = string
  default     = "m7g.large"

  validation {
    condition     = can(regex("^([a-z0-9-]+\\.[a-z0-9-]+)$", var.instance_type))
    error_message = "must be an instance type."
  }
}

variable "min_size" {
  description = "The least number of instances. With three, two remain if a zone fails."
  type        = number
  default     = 3

  validation {
    condition     = var.min_size >= 1
    error_message = "must be 1 or more."
  }
}

variable "max_size" {
  description = "The greatest number of instances."
  type        = number
  default     = 9

  validation {
    condition     = var.max_size >= 1
    error_message = "must be 1 or more."
  }
}

variable "warm_pool" {
  description = "The least number of stopped instances that are installed already and start within a minute. 0 is no warm pool."
  type        = number
  default     = 0

  validation {
    condition     = var.warm_pool >= 0
    error_message = "must be 0 or more."
  }
}

variable "requests_per_minute" {
  description = "The number of requests a minute for each instance at which the group grows."
  type        = number
  default     = 600

  validation {
    condition     = var.requests_per_minute >= 1
    error_message = "must be 1 or more."
  }
}

variable "requests_in_flight" {
  description = "The number of requests in flight on each instance at which the group grows. A stream is one request."
  type        = number
  default     = 40

  validation {
    condition     = var.requests_in_flight >= 1
    error_message = "must be 1 or more."
  }
}

# --- Database and cache

variable "database_class" {
  description = "The instance class of PostgreSQL."
  type        = string
  default     = "db.t4g.medium"

  validation {
    condition     = can(regex("^(db\\.[a-z0-9-]+\\.[a-z0-9]+)$", var.database_class))
    error_message = "must be an instance class of RDS."
  }
}

variable "cache_class" {
  description = "The node type of Valkey."
  type        = string
  default     = "cache.t4g.small"

  validation {
    condition     = can(regex("^(cache\\.[a-z0-9-]+\\.[a-z0-9]+)$", var.cache_class))
    error_message = "must be a node type of ElastiCache."
  }
}

# --- Alarms

variable "alarm_topic_arn" {
  description = "An SNS topic for alarms. Empty means that they are shown only in CloudWatch."
  type        = string
  default     = ""

  validation {
    condition     = can(regex("^((arn:aws[a-z-]*:sns:[a-z0-9-]+:[0-9]{12}:[A-Za-z0-9_-]+)?)$", var.alarm_topic_arn))
    error_message = "must be the ARN of a topic."
  }
}
