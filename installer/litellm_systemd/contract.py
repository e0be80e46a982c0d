"""Names that the installer and the running service share.

The two are different processes, often of different releases. What one writes and the other reads (a unit, an
environment variable, a path, an exit code) is named here and only here.
"""

from __future__ import annotations

from enum import IntEnum

SERVICE = "litellm.service"
SOCKET = "litellm.socket"
#: Serves on the same socket while the service restarts; see `standby`.
STANDBY = "litellm-standby.service"
#: The periodic check of the service; installed only if the user asks for it.
VERIFY_SERVICE = "litellm-verify.service"
VERIFY_TIMER = "litellm-verify.timer"
SERVICE_USER = "litellm"

#: Fixed paths of the service (file-hierarchy(7)).
ENV_FILE = "/etc/litellm/litellm.env"
CONFIG_FILE = "/etc/litellm/config.yaml"

#: The service's RuntimeDirectory=, and the name of its control socket there.
RUNTIME_DIRECTORY = "/run/litellm"
CONTROL_SOCKET = "control.sock"

#: Variables of `.env` that the runtime reads. The first six and JSON_LOGS are LiteLLM's own names for the same thing.
HOST = "HOST"
PORT = "PORT"
NUM_WORKERS = "NUM_WORKERS"
KEEPALIVE_TIMEOUT = "KEEPALIVE_TIMEOUT"
MAX_REQUESTS = "MAX_REQUESTS_BEFORE_RESTART"
MAX_REQUESTS_JITTER = "MAX_REQUESTS_BEFORE_RESTART_JITTER"
WORKER_MEMORY_LIMIT = "WORKER_MEMORY_LIMIT"
START_TIMEOUT = "START_TIMEOUT"
DRAIN_TIMEOUT = "DRAIN_TIMEOUT"
LAME_DUCK_TIMEOUT = "LAME_DUCK_TIMEOUT"
WATCHDOG_TIMEOUT = "WATCHDOG_TIMEOUT"
JSON_LOGS = "JSON_LOGS"
ACCESS_LOG = "ACCESS_LOG"
MASTER_KEY = "LITELLM_MASTER_KEY"
#: Lets clients send mock_testing_* parameters, which LiteLLM otherwise refuses. For development.
ALLOW_MOCK_TESTING = "ALLOW_MOCK_TESTING"
#: The UNIX socket of a throwaway instance, which has no port; see `instances.throwaway`. Not a setting of `.env`.
TRIAL_SOCKET = "LITELLM_SYSTEMD_TRIAL_SOCKET"

DEFAULT_HOST = "127.0.0.1"
DEFAULT_PORT = 4000

#: Seconds: from exec to READY=1; for running requests of a retiring worker; for its idle connections; between
#: two signs of life.
DEFAULT_START_TIMEOUT = 180
DEFAULT_DRAIN_TIMEOUT = 600
DEFAULT_LAME_DUCK_TIMEOUT = 3
DEFAULT_WATCHDOG_TIMEOUT = 30
#: Seconds that an idle connection is kept. Above the 60 s of an AWS load balancer, so that it closes first.
DEFAULT_KEEPALIVE_TIMEOUT = 75

#: When a worker is replaced: least and most of each variable, whole numbers, the limit in MiB. Unset is never.
RECYCLING_RANGES = {
    MAX_REQUESTS: (1, 999_999_999),
    MAX_REQUESTS_JITTER: (0, 999_999_999),
    WORKER_MEMORY_LIMIT: (64, 1_048_576),
}


class ExitCode(IntEnum):
    """Exit codes of `litellmctl` and of the runtime: those of sysexits.h where one fits."""

    OK = 0
    FAILED = 1
    CHANGES = 2
    USAGE = 64
    DATA = 65
    NO_INPUT = 66
    UNAVAILABLE = 69
    SOFTWARE = 70
    OS_ERROR = 71
    CANT_CREATE = 73
    TEMPORARY = 75
    NO_PERMISSION = 77
    CONFIG = 78
    INTERRUPTED = 130
    TERMINATED = 143
