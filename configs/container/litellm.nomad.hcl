# The container of this project on Nomad, with Consul and a load balancer that reads it (docs/containers.md).
job "litellm" {
  datacenters = ["*"]

  update {
    max_parallel      = 1
    canary            = 1
    auto_promote      = true
    auto_revert       = true
    health_check      = "checks"
    min_healthy_time  = "10s"
    healthy_deadline  = "5m"
    progress_deadline = "30m"
  }

  group "litellm" {
    count = 3

    # Nomad removes the service from Consul first, and sends SIGTERM after this time. So DEREGISTRATION_DELAY is 1.
    shutdown_delay = "30s"

    network {
      port "http" {
        to = 4000
      }
    }

    service {
      name = "litellm"
      port = "http"

      check {
        type     = "http"
        path     = "/health/readiness"
        interval = "5s"
        timeout  = "5s"
      }
    }

    task "litellm" {
      driver = "docker"

      # At least DEREGISTRATION_DELAY + DRAIN_TIMEOUT + 30. The client's max_kill_timeout is 30s by default: raise it too.
      kill_signal  = "SIGTERM"
      kill_timeout = "640s"

      config {
        image           = "registry.example.com/litellm-systemd@sha256:0000000000000000000000000000000000000000000000000000000000000000"
        ports           = ["http"]
        readonly_rootfs = true
        cap_drop        = ["all"]
      }

      env {
        AWS_REGION_NAME      = "us-east-1"
        CONFIG_FILE          = "iam_role_config.yml"
        NUM_WORKERS          = "2"
        BEHIND_LOAD_BALANCER = "true"
        DEREGISTRATION_DELAY = "1"
        DRAIN_TIMEOUT        = "600"

        LOAD_BALANCER_IDLE_TIMEOUT = "620"
        KEEPALIVE_TIMEOUT          = "640"
        TRUSTED_PROXIES            = "10.0.0.0/16"
      }

      vault {}

      template {
        data        = <<-EOT
          {{ with secret "secret/data/litellm" }}
          LITELLM_MASTER_KEY={{ .Data.data.master_key }}
          REDIS_URL={{ .Data.data.redis_url }}
          {{ end }}
        EOT
        destination = "secrets/litellm.env"
        env         = true
        change_mode = "noop"
      }

      resources {
        cpu    = 2000
        memory = 2048
      }
    }
  }
}
