#!/usr/bin/env python3
"""The programs of the lab's units. Usage: unit api|worker|temporal|ui|superset, or unit queue-empty.

Environment: DATABASE_URL and REDIS_URL ({password} in them stands for PASSWORD_FILE's content), MEDIA, HOME_VOLUME,
UPSTREAM. With IGNORE_TERM a program does not end on TERM, as some do not. A write is acknowledged when it is on disk
everywhere it goes.
"""

import contextlib
import http.client
import json
import os
import signal
import sqlite3
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import psycopg2
import redis

SCHEMA = """
CREATE TABLE IF NOT EXISTS shop (name text);
INSERT INTO shop SELECT 'Even Keel' WHERE NOT EXISTS (SELECT FROM shop);
CREATE TABLE IF NOT EXISTS orders (id text PRIMARY KEY, number bigserial, at timestamptz DEFAULT clock_timestamp());
CREATE TABLE IF NOT EXISTS results (id text PRIMARY KEY, at timestamptz DEFAULT clock_timestamp());
CREATE TABLE IF NOT EXISTS direct_writes (id text PRIMARY KEY, at timestamptz DEFAULT clock_timestamp());
CREATE TABLE IF NOT EXISTS two_sides (id text PRIMARY KEY, at timestamptz DEFAULT clock_timestamp());
CREATE TABLE IF NOT EXISTS workflows (id text PRIMARY KEY, at timestamptz DEFAULT clock_timestamp());
"""
UNAVAILABLE = (psycopg2.Error, redis.RedisError, OSError, sqlite3.Error)


def on_term(action):
    """Do something on TERM; process 1 of a container that has asked for nothing is not ended by it."""
    if not os.environ.get("IGNORE_TERM"):
        signal.signal(signal.SIGTERM, lambda *_: action())


def url(name):
    """Return a URL from the environment, with its password from a file if that is where it is."""
    file = os.environ.get("PASSWORD_FILE")
    return os.environ[name].replace("{password}", Path(file).read_text().strip() if file else "")


class Database:
    """One connection to PostgreSQL, made anew after any error. For several threads."""

    def __init__(self):
        self.lock = threading.Lock()
        self.connection = None

    def execute(self, statement, *values):
        """Run a statement and commit; returns the rows if there are any."""
        with self.lock:
            try:
                if self.connection is None:
                    self.connection = psycopg2.connect(
                        url("DATABASE_URL"), connect_timeout=2, tcp_user_timeout=3000, keepalives_idle=2
                    )
                with self.connection, self.connection.cursor() as cursor:
                    cursor.execute(statement, values)
                    return cursor.fetchall() if cursor.description else []
            except psycopg2.Error:
                if self.connection is not None:
                    with contextlib.suppress(psycopg2.Error):
                        self.connection.close()
                self.connection = None
                raise


def queue():
    """Return a client of Redis that tries once and doesn't wait long."""
    return redis.Redis.from_url(url("REDIS_URL"), socket_connect_timeout=2, socket_timeout=10, retry=None)


def write_file(path, content):
    """Write a file that is whole and on disk when this returns."""
    part = path.with_name(f".{path.name}.part")
    part.parent.mkdir(parents=True, exist_ok=True)
    with part.open("w") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    part.rename(path)
    directory = os.open(path.parent, os.O_RDONLY)
    os.fsync(directory)
    os.close(directory)


class Api(BaseHTTPRequestHandler):
    """What all HTTP programs have in common: JSON in, JSON out, 503 while something behind it is away."""

    def answer(self, status, body):
        """Send a JSON answer."""
        data = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def serve(self, method):
        """Find what answers the request."""
        route = self.routes.get((method, self.path))
        if route is None:
            return self.answer(404, {"error": "no such path"})
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        try:
            return self.answer(200, route(self, json.loads(body) if body else {}))
        except UNAVAILABLE as error:
            return self.answer(503, {"error": type(error).__name__})

    def do_GET(self):
        """Answer a GET."""
        self.serve("GET")

    def do_POST(self):
        """Answer a POST."""
        self.serve("POST")

    def log_message(self, *_arguments):
        """Say nothing."""

    routes = {("GET", "/health/"): lambda _self, _body: {"alive": True}}  # noqa: RUF012 # never touches the database


def serve(routes):
    """Serve HTTP on port 8000 until TERM."""
    handler = type("Handler", (Api,), {"routes": {**Api.routes, **routes}})
    on_term(sys.exit)
    ThreadingHTTPServer(("", 8000), handler).serve_forever()


def until_there(action):
    """Repeat an action until what it needs is there."""
    while True:
        try:
            return action()
        except UNAVAILABLE:
            time.sleep(0.2)


def api():
    """Saleor's API: an order goes into the media volume, PostgreSQL and Redis, then it is acknowledged."""
    database, jobs, media = Database(), queue(), Path(os.environ["MEDIA"])
    until_there(lambda: database.execute(SCHEMA))

    def shop(_self, body):
        if "shop" not in body.get("query", ""):
            return {"errors": [{"message": "only shop can be asked for"}]}
        return {"data": {"shop": {"name": database.execute("SELECT name FROM shop")[0][0]}}}

    def order(_self, body):
        name = str(body["id"])
        write_file(media / "orders" / name, name)
        database.execute("INSERT INTO orders (id) VALUES (%s)", name)
        with jobs.pipeline(transaction=True) as pipeline:
            pipeline.set(f"order:{name}", "1").rpush("jobs", name).execute()
        return {"id": name}

    serve({("POST", "/graphql/"): shop, ("POST", "/order"): order})


def worker():
    """Saleor's worker: takes a job, writes its result; on TERM ends the job that it has and goes."""
    database, jobs, media = Database(), queue(), Path(os.environ["MEDIA"])
    ending = threading.Event()
    on_term(ending.set)

    def work():
        name = jobs.lindex("working", 0) or jobs.blmove("jobs", "working", 2, "LEFT", "RIGHT")
        if name:
            text = name.decode()
            write_file(media / "results" / text, text)
            # A job that a kill cut off is done again: the result is there once all the same.
            database.execute("INSERT INTO results (id) VALUES (%s) ON CONFLICT DO NOTHING", text)
            jobs.lrem("working", 1, name)

    while not ending.is_set():
        try:
            work()
        except UNAVAILABLE:
            ending.wait(0.2)


def queue_empty():
    """Exit 0 if no job waits and none is being worked on."""
    jobs = queue()
    sys.exit(0 if jobs.llen("jobs") + jobs.llen("working") == 0 else 1)


def temporal():
    """Temporal's server: all its state is in PostgreSQL. SKIP_SCHEMA_SETUP keeps it from making a schema of its own."""
    database = Database()
    if not os.environ.get("SKIP_SCHEMA_SETUP"):
        until_there(lambda: database.execute(SCHEMA))

    def workflow(_self, body):
        database.execute("INSERT INTO workflows (id) VALUES (%s)", str(body["id"]))
        return {"id": body["id"]}

    def health(_self, _body):
        database.execute("SELECT count(*) FROM workflows")
        return {"status": "SERVING"}

    serve({("POST", "/workflow"): workflow, ("GET", "/cluster-health"): health})


def user_interface():
    """Temporal's UI: stateless, shows what the server says."""

    def shown(_self, _body):
        connection = http.client.HTTPConnection(os.environ["UPSTREAM"], 8000, timeout=5)
        connection.request("GET", "/cluster-health")
        return json.load(connection.getresponse())

    serve({("GET", "/"): shown})


def superset():
    """Superset: its metadata is an SQLite database in its home volume."""
    home = Path(os.environ["HOME_VOLUME"])

    def connected():
        connection = sqlite3.connect(home / "superset.db", timeout=5)
        connection.execute("PRAGMA synchronous=FULL")
        connection.execute("CREATE TABLE IF NOT EXISTS notes (id TEXT PRIMARY KEY)")
        return contextlib.closing(connection)

    def note(_self, body):
        with connected() as connection, connection:
            connection.execute("INSERT INTO notes VALUES (?)", (str(body["id"]),))
        return {"id": body["id"]}

    def notes(_self, _body):
        with connected() as connection:
            return {"ids": [row[0] for row in connection.execute("SELECT id FROM notes ORDER BY id")]}

    serve({("POST", "/note"): note, ("GET", "/notes"): notes})


PROGRAMS = {
    "api": api, "worker": worker, "queue-empty": queue_empty, "temporal": temporal, "ui": user_interface,
    "superset": superset,
}  # fmt: skip

if __name__ == "__main__":
    if len(sys.argv) != 2 or sys.argv[1] not in PROGRAMS:
        sys.exit(f"usage: unit {'|'.join(PROGRAMS)}")
    PROGRAMS[sys.argv[1]]()
