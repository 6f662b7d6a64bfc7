# nginx and the sidecar in one group: docs/how-to/run-in-nomad.md says what to change, and why it looks like this.

variable "image" {
  type    = string
  default = "registry.example.com/proxygen:0.1.0"
}

locals {
  # The sidecar reads it for the second gate and nginx serves with it: both tasks get it at the same path.
  nginx_conf = <<-CONF
    # `auto` would count the node's CPUs and not those of the task.
    worker_processes 2;
    worker_shutdown_timeout 60s;
    pid /alloc/tmp/nginx.pid;
    # The first goes to the task's log. The second is what proxygen quotes when a reload is refused: little, as nobody
    # rotates it.
    error_log stderr notice;
    error_log /alloc/tmp/nginx-error.log crit;
    include /etc/nginx/modules-enabled/*.conf;

    events {
        worker_connections 4096;
    }

    http {
        include /etc/nginx/mime.types;
        default_type application/octet-stream;
        sendfile on;
        server_tokens off;

        client_body_temp_path /tmp/nginx-body;
        proxy_temp_path /tmp/nginx-proxy;
        fastcgi_temp_path /tmp/nginx-fastcgi;
        uwsgi_temp_path /tmp/nginx-uwsgi;
        scgi_temp_path /tmp/nginx-scgi;

        access_log /dev/stdout;

        # For Consul's checks: nginx is alive; nginx serves a generation, whatever has become of the sidecar.
        server {
            listen 8081;
            access_log off;
            location = /alive {
                return 200;
            }
            location = /ready {
                proxy_pass http://127.0.0.1:18082/proxygen/stamp;
            }
            location / {
                return 404;
            }
        }

        include /alloc/data/proxygen/current/http.d/*.conf;
    }

    stream {
        include /alloc/data/proxygen/current/stream.d/*.conf;
    }
  CONF
}

job "proxygen" {
  type = "service"

  group "proxygen" {
    count = 2

    # Port 80 is the node's own.
    constraint {
      operator = "distinct_hosts"
      value    = "true"
    }

    update {
      max_parallel     = 1
      health_check     = "checks"
      min_healthy_time = "10s"
      healthy_deadline = "3m"
      auto_revert      = true
    }

    # The hold may be back a moment after those that it holds together.
    restart {
      attempts = 10
      interval = "5m"
      delay    = "2s"
      mode     = "delay"
    }

    # Generations stay on the node for the next allocation. On another node they are made anew from Consul.
    ephemeral_disk {
      size   = 500
      sticky = true
    }

    network {
      mode = "bridge"
      port "http" {
        static = 80
        to     = 8080
      }
      port "https" {
        static = 443
        to     = 8443
      }
      port "ready" {
        to = 8081
      }
      port "admin" {
        to = 18081
      }
    }

    # Before a task is told to end, its services leave Consul, and who asks Consul has this long to see it.
    shutdown_delay = "5s"

    service {
      name     = "proxygen"
      provider = "consul"
      port     = "http"

      # Not the sidecar's /readyz: all sidecars lose Consul together, and nginx serves on.
      check {
        name     = "serves a generation"
        type     = "http"
        port     = "ready"
        path     = "/ready"
        interval = "5s"
        timeout  = "2s"
      }
    }

    service {
      name     = "proxygen-admin"
      provider = "consul"
      port     = "admin"

      check {
        name     = "the sidecar lives"
        task     = "sidecar"
        type     = "http"
        path     = "/healthz"
        interval = "10s"
        timeout  = "5s"

        check_restart {
          limit = 3
          grace = "60s"
        }
      }
    }

    # Has the PID namespace that the others join, so that either ends without the other: pods have such a process too.
    task "hold" {
      driver = "docker"

      lifecycle {
        hook    = "prestart"
        sidecar = true
      }

      config {
        image           = var.image
        entrypoint      = ["python3", "-I", "-S", "/opt/proxygen/hold.py"]
        cap_drop        = ["all"]
        security_opt    = ["no-new-privileges"]
        readonly_rootfs = true
        pids_limit      = 16

        # The image's own is for the sidecar alone, and Consul's above are better ones.
        healthchecks {
          disable = true
        }
      }

      resources {
        cpu    = 20
        memory = 32
      }
    }

    task "nginx" {
      driver       = "docker"
      kill_signal  = "SIGQUIT"
      kill_timeout = "70s" # longer than worker_shutdown_timeout

      config {
        image           = var.image
        entrypoint      = ["/usr/sbin/nginx", "-c", "/local/nginx.conf", "-g", "daemon off;"]
        pid_mode        = "container:hold-${NOMAD_ALLOC_ID}"
        cap_drop        = ["all"]
        security_opt    = ["no-new-privileges"]
        readonly_rootfs = true
        pids_limit      = 256

        # All that may be written to, besides the allocation's own directories.
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

      template {
        data        = local.nginx_conf
        destination = "local/nginx.conf"
      }

      resources {
        cpu    = 200
        memory = 256
      }
    }

    task "sidecar" {
      driver       = "docker"
      kill_timeout = "10s"

      # Nomad's token for this task, in the variables that proxygen reads; its policy is deploy/acl/sidecar.hcl.
      consul {}

      config {
        image           = var.image
        entrypoint      = ["proxygen", "run"]
        pid_mode        = "container:hold-${NOMAD_ALLOC_ID}"
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

      env {
        CONSUL_HTTP_ADDR = "${attr.unique.network.ip-address}:8500"
        PROXYGEN_CONFIG  = "/local/proxygen.toml"
      }

      template {
        destination = "local/proxygen.toml"
        data        = <<-TOML
          [proxy]
          # Where your instances live. The metadata service and the like are refused whatever stands here.
          allowed_addresses = "10.0.0.0/8"
          # A path under a host that another service holds is refused: docs/how-to/access-control.md.
          hosts = "whole"

          [output]
          directory = "/alloc/data/proxygen"

          [nginx]
          conf = "/local/nginx.conf"

          [admin]
          # Consul's check and Prometheus come from outside the allocation. Writes need a token.
          listen = "0.0.0.0:18081"
        TOML
      }

      template {
        data        = local.nginx_conf
        destination = "local/nginx.conf"
      }

      resources {
        cpu    = 100
        memory = 256
      }
    }
  }
}
