"""A pause of all processes, as by `systemctl freeze`, or with a virtual machine that is moved."""

from __future__ import annotations

import time

from box import Box
from load import STREAMS, loaded
from service import now, said, set_up, state, workers

#: Seconds. A worker may hang for half of the watchdog's time, and the pause is longer than that.
WATCHDOG, PAUSE = 14, 10


def test_pause_of_all_processes(idle_box: Box) -> None:
    """After a pause that is longer than a worker may hang every stream continues, no request fails, and all processes
    are the same. One line in the journal reports the pause.
    """
    set_up(idle_box, f"NUM_WORKERS=2\nWATCHDOG_TIMEOUT={WATCHDOG}\n")
    before = state(idle_box), workers(idle_box)
    with loaded(idle_box, streams=STREAMS, events=PAUSE + 5) as load:
        start = now(idle_box)
        # A freezer needs control groups of version 2, which boxes may lack. Signals stop and continue the same
        # processes, the main process last and first: it sees that its workers are silent.
        for signal, pids in (
            ("-STOP", (*before[1], before[0]["MainPID"])),
            ("-CONT", (before[0]["MainPID"], *before[1])),
        ):
            for pid in pids:
                idle_box.run(("kill", signal, pid))
            time.sleep(PAUSE if signal == "-STOP" else 2)
    assert load.failed == []
    assert (load.whole, len(load.streamed)) == (STREAMS, STREAMS), load.streamed
    assert (state(idle_box), workers(idle_box)) == before
    [line] = said(idle_box, "notice", start)
    assert line in {f"the service was paused for {PAUSE + n} s, and its timeouts do not count them" for n in range(4)}
