#!/usr/bin/env python3
"""The ledger's client: writes all the time on several paths and keeps what was acknowledged.

Arguments: <path>=<url>..., path one of api, postgres, redis. Records go to /ledger/<run>-<path>.jsonl: a line when a
write begins, one when its answer came: {"id", "path", "event": "begin" | "ack" | "fail", "mono", "wall", "error"?}.
An id is written once: what got no answer is unknown, may be there or not, and is never tried again.
The pause between two writes is WRITER_PAUSE seconds; passwords are in WRITER_PASSWORDS, JSON by path, or in the
file that WRITER_PASSWORDS_FILE names.
"""

import http.client
import json
import os
import secrets
import signal
import sys
import threading
import time
from pathlib import Path
from urllib.parse import urlsplit

import psycopg2
import redis

PAUSE = float(os.environ.get("WRITER_PAUSE") or 0.02)
AFTER_FAILURE = 0.03
TIMEOUT = 5
RUN = secrets.token_hex(4)
ending = threading.Event()


class ApiPath:
    """Orders through the application."""

    def __init__(self, url, _password):
        self.url = urlsplit(url)

    def write(self, name):
        """Write; returns when it is acknowledged, raises otherwise."""
        connection = http.client.HTTPConnection(self.url.hostname, self.url.port or 80, timeout=TIMEOUT)
        try:
            connection.request("POST", self.url.path, json.dumps({"id": name}))
            answer = connection.getresponse()
            answer.read()
            if answer.status != 200:
                raise OSError(f"status {answer.status}")
        finally:
            connection.close()


class PostgresPath:
    """Rows straight into PostgreSQL."""

    def __init__(self, url, password):
        self.url, self.password, self.connection = url, password, None

    def write(self, name):
        """Write; returns when it is committed, raises otherwise."""
        try:
            if self.connection is None:
                self.connection = psycopg2.connect(
                    self.url, password=self.password, connect_timeout=2, tcp_user_timeout=TIMEOUT * 1000,
                    keepalives_idle=1, keepalives_interval=1, keepalives_count=4,
                )  # fmt: skip
                self.connection.autocommit = True
            with self.connection.cursor() as cursor:
                cursor.execute("INSERT INTO direct_writes (id) VALUES (%s)", (name,))
        except psycopg2.Error:
            if self.connection is not None:
                self.connection.close()
            self.connection = None
            raise


class RedisPath:
    """Keys straight into Redis."""

    def __init__(self, url, password):
        self.client = redis.Redis.from_url(
            url, password=password, socket_connect_timeout=2, socket_timeout=TIMEOUT, retry=None
        )

    def write(self, name):
        """Write; returns when it is answered, raises otherwise."""
        self.client.set(f"direct:{name}", "1")


PATHS = {"api": ApiPath, "postgres": PostgresPath, "redis": RedisPath}


def keep_writing(path, writer, file):
    """Write until told to end, one new id after the other."""
    number = 0

    def record(event, name, **more):
        line = {"id": name, "path": path, "event": event, "mono": time.monotonic(), "wall": time.time(), **more}
        file.write(json.dumps(line) + "\n")

    while not ending.is_set():
        number += 1
        name = f"{RUN}-{path}-{number}"
        record("begin", name)
        try:
            writer.write(name)
        except (OSError, psycopg2.Error, redis.RedisError, http.client.HTTPException) as error:
            record("fail", name, error=str(error)[:200])
            ending.wait(AFTER_FAILURE)
        else:
            record("ack", name)
            ending.wait(PAUSE)


def main():
    """Start a thread for each path."""
    signal.signal(signal.SIGTERM, lambda *_: ending.set())
    file = os.environ.get("WRITER_PASSWORDS_FILE")
    passwords = json.loads(Path(file).read_text() if file else os.environ.get("WRITER_PASSWORDS") or "{}")
    threads = []
    for argument in sys.argv[1:]:
        path, _, url = argument.partition("=")
        # Line by line, so that a kill loses no record of an acknowledgement that came before it.
        records = Path(f"/ledger/{RUN}-{path}.jsonl").open("w", buffering=1)  # noqa: SIM115
        writer = PATHS[path](url, passwords.get(path))
        threads.append(threading.Thread(target=keep_writing, args=(path, writer, records)))
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


if __name__ == "__main__":
    main()
