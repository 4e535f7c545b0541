# Copyright: Even Keel contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The log of the process: one JSON object a line on standard error."""

from __future__ import annotations

import json
import logging
import sys

from job_launcher.model import iso

_OWN = set(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}


class JsonLines(logging.Formatter):
    """A record as JSON: time, level, logger, message, whatever `extra` held, and the traceback if there is one."""

    def format(self, record: logging.LogRecord) -> str:
        """One line without its end; what a caller sent can't begin another one."""
        line = {
            "at": iso(int(record.created * 1000)),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            **{name: value for name, value in vars(record).items() if name not in _OWN},
        }
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        return json.dumps(line, default=str)


def begin(level: int = logging.INFO) -> None:
    """Send everything that is logged to standard error."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonLines())
    logging.basicConfig(level=level, handlers=[handler], force=True)
    # Its reports of each packet would hold what users see.
    for name in ("engineio", "socketio"):
        logging.getLogger(name).setLevel(logging.ERROR)
