"""Snapshots of an invented service: for tests, and as a program that runs litellmctl with them."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from litellm_systemd.cli import main
from litellm_systemd.client.metrics import parse_samples
from litellm_systemd.commands import top
from litellm_systemd.commands.figures import Figures, Sample, build_figures
from litellm_systemd.commands.top import Snapshot
from litellm_systemd.errors import Unavailable

#: What a service with METRICS answered, without labels that are of no use here.
EXPOSITION = (Path(__file__).parent / "metrics.prom").read_text(encoding="utf-8")


def figures(text: str, before: str | None = None, seconds: float = 4.0, **more: Any) -> Figures:
    """The figures of an exposition, and of another one that many seconds before."""
    earlier = None if before is None else Sample(100.0, parse_samples(before), {})
    return build_figures(Sample(100.0 + seconds, parse_samples(text), {}), {}, before=earlier, **more)


def snapshot(found: Figures, **more: Any) -> Snapshot:
    fields: dict[str, Any] = {
        "at": 1_800_000_000.0,
        "title": "litellm.service is active (running): serving on 127.0.0.1:4000 with 3 models, 2 workers",
        "service": {"active": "active", "sub": "running", "status": "serving", "standby": ""},
        "workers": tuple(
            {
                **{"worker": number, "pid": 4200 + number, "generation": 2, "state": "serving", "age": 90.0},
                **{"inflight": 1, "connections": 4, "requests": 120, "pss_mib": 234},
            }
            for number in range(1, 13)
        ),
        "last_reload": {"ok": False, "seconds": 2.1, "error": "demo.yml has no model_list"},
        "figures": found,
        "errors": (
            {
                "last": 1_799_999_990.0,
                "count": 12,
                "kind": "bedrock-throttled",
                "priority": 4,
                "sample": "busy " * 40,
            },
        ),
        "notes": ("The credentials are not known.",),
    }
    return Snapshot(**{**fields, **more})


class Monitor:
    """Has a snapshot each time; on a terminal, the second time nothing can be observed."""

    count = 0

    def __init__(self, _layout: object) -> None:
        pass

    def observe(self) -> Snapshot:
        self.count += 1
        if self.count == 2 and sys.stdout.isatty():
            raise Unavailable("systemd does not answer")
        return snapshot(figures(EXPOSITION, EXPOSITION), title=f"observation {self.count}")


if __name__ == "__main__":
    top.Monitor = Monitor  # type: ignore[assignment, misc]
    main()
