"""The name of `worker.litellm_adapter` in version 0.1.0, whose `upgrade` imports it from the new release.

Remove it when upgrades from that version are no longer supported.
"""

from litellm_systemd.runtime.worker.litellm_adapter import preload as preload
