"""Processes that work for a fixed time of CPU, pause for a fixed time, and begin anew, however long a round takes.

Arguments are groups, <count>x<share>: `10x1 8x0.1` is ten processes that never pause and eight that would use a tenth
of a CPU each if nothing held them up. Unlike a load generator that paces itself by the clock, a slowed-down process
still pauses, as a server does that waits for its database.
"""

import os
import sys
import time

#: CPU seconds of one round; long against the cost of waking up, short against an enforcement period of 100 ms.
WORK = 0.005


def loop(share: float, late: float) -> None:
    """Work and pause for good, beginning `late` (0 to 1) pauses from now, so that a group does not move in step."""
    pause = WORK / share - WORK
    time.sleep(late * pause)
    while True:
        end = time.thread_time() + WORK
        while time.thread_time() < end:
            pass
        if pause > 0:
            time.sleep(pause)


shares = []
for group in sys.argv[1:]:
    count, _, share = group.partition("x")
    shares += [(float(share), number / int(count)) for number in range(int(count))]
if not shares or not all(0 < share <= 1 for share, _ in shares):
    sys.exit("usage: closed_loops.py <count>x<share>..., a share more than 0 and at most 1")
for share, late in shares[1:]:
    if os.fork() == 0:
        loop(share, late)
loop(*shares[0])
