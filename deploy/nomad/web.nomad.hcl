# An application that Nomad registers, and updates by a canary of 10 %: docs/how-to/run-in-nomad.md.

variable "image" {
  type        = string
  description = "what to run, by digest or by a tag that never moves"
  default     = "registry.example.com/web:1"
}

job "web" {
  type = "service"

  group "web" {
    count = 3

    # Of a new version one instance starts beside the old ones. It waits for `nomad job promote web`.
    update {
      canary           = 1
      max_parallel     = 1
      health_check     = "checks"
      min_healthy_time = "10s"
      healthy_deadline = "3m"
      auto_revert      = true
      auto_promote     = false
    }

    network {
      mode = "bridge"
      port "http" {
        to = 8080
      }
    }

    # Proxies see that an instance has left Consul before it is told to end.
    shutdown_delay = "5s"

    service {
      name     = "web"
      provider = "consul"
      port     = "http"
      tags     = ["proxygen.route=app.example.com"]

      # In place of `tags`, until it is promoted. `proxygen canary set web 25%` moves the share meanwhile.
      canary_tags = ["proxygen.route=app.example.com", "proxygen.canary=10%"]

      check {
        name     = "answers"
        type     = "http"
        path     = "/healthz"
        interval = "5s"
        timeout  = "2s"
      }
    }

    task "web" {
      driver       = "docker"
      kill_timeout = "25s"

      config {
        image           = var.image
        cap_drop        = ["all"]
        security_opt    = ["no-new-privileges"]
        readonly_rootfs = true
        pids_limit      = 256

        mount {
          type   = "tmpfs"
          target = "/tmp"
          tmpfs_options {
            size = 67108864
          }
        }

        healthchecks {
          disable = true
        }
      }

      resources {
        cpu    = 100
        memory = 128
      }
    }
  }
}
