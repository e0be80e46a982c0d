"""A pause of all processes, as by `systemctl freeze`, or with a virtual machine that is moved."""

from __future__ import annotations

import math
import re
import time

from box import Box
from load import STREAMS, loaded
from service import now, said, set_up, state, workers

#: Seconds. A worker may hang for half of the watchdog's time, and the pause is longer than that. The rest of it is
#: for the commands that stop and continue the main process.
WATCHDOG, PAUSE = 18, 10


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
        main = before[0]["MainPID"]
        for pid in before[1]:
            idle_box.run(("kill", "-STOP", pid))
        begin = time.monotonic()
        idle_box.run(("kill", "-STOP", main))
        time.sleep(PAUSE)
        idle_box.run(("kill", "-CONT", main))
        longest = math.ceil(time.monotonic() - begin)
        for pid in before[1]:
            idle_box.run(("kill", "-CONT", pid))
        time.sleep(2)
    assert load.failed == []
    assert (load.whole, len(load.streamed)) == (STREAMS, STREAMS), load.streamed
    assert (state(idle_box), workers(idle_box)) == before
    [line] = said(idle_box, "notice", start)
    found = re.fullmatch(r"the service was paused for (\d+) s, and its timeouts do not count them", line)
    assert found is not None, line
    # The main process measures from its last tick before to its first one after, which on a busy machine may be late.
    assert PAUSE <= int(found[1]) <= longest + 2
