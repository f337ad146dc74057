"""Stands for `batcher`, or `python`, in a shell; the program itself is a fork of `killed.py`.

`python forked.py SOCKET ARGUMENT...`: it has the folder, the variables and the streams of this process, which
passes signals on and ends as the program does.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import sys

PASSED = [signal.SIGHUP, signal.SIGINT, signal.SIGTERM]


def main() -> None:
    path, *arguments = sys.argv[1:]
    signal.pthread_sigmask(signal.SIG_BLOCK, PASSED)  # until it is known whom to pass them to
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(path)
        order = {"arguments": arguments, "folder": os.getcwd(), "environment": dict(os.environ)}  # noqa: PTH109
        message = json.dumps(order).encode() + b"\n"
        connection.sendall(message[socket.send_fds(connection, [message], range(3)) :])
        replies = connection.makefile("rb", buffering=0)
        program = int(replies.readline())
        for number in PASSED:
            signal.signal(number, lambda number, _frame: os.kill(program, number))
        signal.pthread_sigmask(signal.SIG_UNBLOCK, PASSED)
        status = int(replies.readline())
    if status < 0:
        signal.signal(-status, signal.SIG_DFL)
        os.kill(os.getpid(), -status)
    sys.exit(status)


if __name__ == "__main__":
    main()
