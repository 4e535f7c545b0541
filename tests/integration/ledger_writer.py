"""Write to a Redis without end, or read back what was acknowledged. Runs in a container beside it; no client needed.

write: `ledger_writer.py write HOST PASSWORD_FILE LEDGER`: each acknowledged number and its time go into the ledger. A
number whose answer never came is not tried again. read: `ledger_writer.py read HOST PASSWORD_FILE LEDGER` prints what
of the ledger is missing.
"""

from __future__ import annotations

import socket
import sys
import time
from pathlib import Path


def command(*words: str) -> bytes:
    return f"*{len(words)}\r\n".encode() + b"".join(b"$%d\r\n%s\r\n" % (len(w.encode()), w.encode()) for w in words)


def connect(host: str, password: str) -> socket.socket:
    connection = socket.create_connection((host, 6379), timeout=3)
    connection.settimeout(8)
    if password:
        connection.sendall(command("AUTH", password))
        if not connection.recv(100).startswith(b"+OK"):
            raise OSError("AUTH")
    return connection


def write(host: str, password: str, ledger: str) -> None:
    number, connection = 0, None
    with Path(ledger).open("a", buffering=1, encoding="ascii") as file:
        while True:
            try:
                connection = connection or connect(host, password)
                number += 1
                connection.sendall(command("SET", f"k:{number}", str(number)))
                answer = connection.recv(200)
                if answer != b"+OK\r\n":
                    raise OSError(answer.decode(errors="replace"))
                file.write(f"{number} {time.time():.4f}\n")
                time.sleep(0.002)
            except OSError:
                if connection is not None:
                    connection.close()
                connection = None
                time.sleep(0.02)


def read(host: str, password: str, ledger: str) -> None:
    lines = [line.split() for line in Path(ledger).read_text(encoding="ascii").splitlines()]
    numbers = [line[0] for line in lines if len(line) == 2]
    missing = []
    with connect(host, password) as connection, connection.makefile("rb") as answers:
        for number in numbers:
            connection.sendall(command("GET", f"k:{number}"))
            head = answers.readline()
            value = answers.readline().strip() if head != b"$-1\r\n" else b""
            if value != number.encode():
                missing.append(number)
    sys.stdout.write(f"{len(numbers)} {len(missing)} {' '.join(missing[:10])}\n")


if __name__ == "__main__":
    secret = Path(sys.argv[3]).read_text(encoding="utf-8").strip()
    {"write": write, "read": read}[sys.argv[1]](sys.argv[2], secret, sys.argv[4])
