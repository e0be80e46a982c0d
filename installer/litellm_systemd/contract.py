"""Names that the installer and the running service share.

The two are different processes, often of different releases. What one writes and the other reads (a unit, an
environment variable, a path, an exit code) is named here and only here.
"""

from __future__ import annotations

import hmac
from enum import IntEnum

SERVICE = "litellm.service"
SOCKET = "litellm.socket"
#: Serves on the same socket while the service restarts; see `instances.temporary_unit`.
STANDBY = "litellm-standby.service"
#: The periodic check of the service; installed only if the user asks for it.
VERIFY_SERVICE = "litellm-verify.service"
VERIFY_TIMER = "litellm-verify.timer"
#: Holds the listener of METRICS, under the name METRICS_LISTENER (FileDescriptorName=); installed only with METRICS.
METRICS_SOCKET = "litellm-metrics.socket"
METRICS_LISTENER = "metrics"
SERVICE_USER = "litellm"
#: PostgreSQL of the distribution. On Debian it stands for all clusters, which start before it.
POSTGRES = "postgresql.service"
#: Redis and Valkey of Debian, Fedora and Amazon Linux.
REDIS_UNITS = ("redis-server.service", "redis.service", "redis6.service", "valkey-server.service", "valkey.service")

#: Prisma's query engine in a release with a database.
QUERY_ENGINE = "lib/prisma/query-engine"

#: Fixed paths of the service (file-hierarchy(7)).
ENV_FILE = "/etc/litellm/litellm.env"
CONFIG_FILE = "/etc/litellm/config.yaml"
#: The encrypted credential with the secrets of the environment (`install --encrypt-secrets`). Its name is that of the
#: file, as systemd-creds(1) expects it.
SECRETS_FILE = "/etc/litellm/litellm.secrets"
SECRETS_CREDENTIAL = "litellm.secrets"

#: In a configuration, LiteLLM replaces this prefix and the name after it by the value of that environment variable.
REFERENCE = "os.environ/"

#: With these variables LiteLLM uses the files that it contains. By default it downloads them at import, with retries.
OFFLINE_VARIABLES = {
    "LITELLM_LOCAL_MODEL_COST_MAP": "True",
    "LITELLM_LOCAL_ANTHROPIC_BETA_HEADERS": "True",
    "LITELLM_LOCAL_BLOG_POSTS": "True",
    "LITELLM_LOCAL_POLICY_TEMPLATES": "True",
    "LITELLM_LOCAL_AUTOROUTER_PRESETS": "True",
}

#: The provider of the models in configs/demo.yml, which `litellm_systemd.demo` implements.
DEMO_PROVIDER = "litellm-systemd-demo"

#: The package that ExecStart= runs.
RUNTIME = "litellm_systemd.runtime"

#: The service's RuntimeDirectory=, and the name of its control socket there.
RUNTIME_DIRECTORY = "/run/litellm"
CONTROL_SOCKET = "control.sock"
#: The counters of all main processes, of the service and of its standby: a folder of the service's user in a tmpfs
#: that outlives them (tmpfiles.d, mode 0700), writable in the sandbox. Used if systemd passes METRICS_LISTENER.
METRICS_DIRECTORY = "/run/litellm-metrics"
#: The outcome of the last `litellmctl verify`: {"at": Unix time, "ok": bool}. The folder is of root, readable by the
#: service (tmpfiles.d, mode 0755), and writable for litellm-verify.service; without it no outcome is kept.
VERIFY_RESULT = "/run/litellm-verify/last.json"
#: Empty files there. Their times are those of the last scrape, and of the last one without a right key.
METRICS_SCRAPED, METRICS_REFUSED = "scraped", "refused"
#: The User-Agent of litellmctl, whose requests for metrics are no scrapes.
USER_AGENT = "litellmctl"

#: The names of the certificate and the private key of HTTPS in $CREDENTIALS_DIRECTORY (LoadCredential= of the unit).
TLS_CERTIFICATE = "tls.crt"
TLS_KEY = "tls.key"
#: How the status line of a service with HTTPS begins.
SERVING_HTTPS = "serving HTTPS"

#: The master keys that `litellmctl rotate-key` has replaced; see `env.retired_keys`. Not a setting of `.env`.
RETIRED_KEYS = "LITELLM_RETIRED_KEYS"

#: The UNIX socket of a throwaway instance, which has no port; see `instances.throwaway`. Not a setting of `.env`.
TRIAL_SOCKET = "LITELLM_SYSTEMD_TRIAL_SOCKET"

#: `verify` sends this wrong key, to see that it is refused, with a header that proves that it knows the right one.
#: It is the key of no installation: keys that `init` generates are longer.
REFUSED_KEY = "sk-this-key-is-wrong-on-purpose"
REFUSAL_HEADER = "X-Litellmctl-Expects-Refusal"


def build_refusal_code(master_key: str) -> str:
    return hmac.new(master_key.encode(), REFUSAL_HEADER.encode(), "sha256").hexdigest()


class ExitCode(IntEnum):
    """Exit codes of `litellmctl` and of the runtime: those of sysexits.h where one fits."""

    OK = 0
    FAILED = 1
    CHANGES = 2
    USAGE = 64
    DAMAGED = 65
    NO_INPUT = 66
    #: Redis cannot be reached, or does not accept the service. EX_NOUSER has no other use here.
    REDIS = 67
    #: EX_NOHOST: the database cannot be reached, or does not accept the service.
    DATABASE = 68
    UNAVAILABLE = 69
    SOFTWARE = 70
    OS_ERROR = 71
    CANT_CREATE = 73
    IO_ERROR = 74
    TEMPORARY = 75
    PROTOCOL = 76
    NO_PERMISSION = 77
    CONFIG = 78
    INTERRUPTED = 130
    TERMINATED = 143
