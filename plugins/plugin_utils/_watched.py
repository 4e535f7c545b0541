# Copyright: Even Keel contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Run a module as Ansible's own kind of background job and show its events while it works.

A module speaks once, at its end, and some take minutes. So with `progress: true` the module writes its events into a
file that this side reads every few seconds. That the job outlives a lost connection is welcome: it ends what it began,
or puts it back.
"""

from __future__ import annotations

import secrets
import time
from typing import Any, ClassVar

from ansible.errors import AnsibleError
from ansible.module_utils.parsing.convert_bool import boolean
from ansible.plugins.action import ActionBase
from ansible.utils.display import Display
from ansible_collections.evenkeel.swarm.plugins.module_utils._progress import Progress

POLL_SECONDS = 2
# Nothing that converges at all takes longer: an upper bound for Ansible, the module has its own timeouts.
JOB_SECONDS = 24 * 3600
# Lost connections in a row before the job is left to itself.
PATIENCE = 15
#: Exit status of a look that no longer finds the mark.
GONE = 3

display = Display()


class WatchedAction(ActionBase):  # type: ignore[misc]
    """Runs on the controller; a subclass names the module and the words for its events."""

    module: ClassVar[str]
    progress: ClassVar[type[Progress]]
    _supports_check_mode = True
    _supports_async = True

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        """Return what the module returned."""
        super().run(tmp, task_vars)
        arguments = dict(self._task.args)
        wanted = boolean(arguments.pop("progress", False), strict=False)
        if not wanted or self._task.check_mode or self._task.async_val:
            return self._module(arguments, task_vars, wrap_async=bool(self._task.async_val))
        arguments.setdefault("progress_file", f"/run/lock/evenkeel-progress-{secrets.token_hex(16)}")
        return self._watched(arguments, task_vars, ours="progress_file" not in self._task.args)

    def _module(self, arguments: dict[str, Any], task_vars: Any, *, wrap_async: bool = False) -> dict[str, Any]:
        result: dict[str, Any] = self._execute_module(
            module_name=self.module,
            module_args=arguments,
            task_vars=task_vars,
            wrap_async=wrap_async,
        )
        return result

    def _watched(self, arguments: dict[str, Any], task_vars: Any, *, ours: bool) -> dict[str, Any]:
        alive = f"/run/lock/evenkeel-job-{secrets.token_hex(16)}"
        # Where it can't be made, nobody can say whether the host was started anew.
        marked = self._low_level_execute_command(f"touch {alive}").get("rc") == 0
        self._task.async_val = JOB_SECONDS
        try:
            job = self._module(arguments, task_vars, wrap_async=True)
        finally:
            self._task.async_val = 0
        if "ansible_job_id" not in job:
            self._low_level_execute_command(f"rm -f {alive}")
            return job
        path = arguments["progress_file"]
        progress = self.progress(task_vars["inventory_hostname"])
        lost = 0
        while True:
            time.sleep(POLL_SECONDS)
            try:
                gone = self._show(path, progress, alive)
                result = self._status(job["ansible_job_id"], task_vars, "status")
            except AnsibleError as error:
                lost += 1
                if lost > PATIENCE:
                    raise AnsibleError(
                        f"the connection is lost; the job goes on there, its events in {path}"
                    ) from error
                self._connection.reset()
                continue
            lost = 0
            if result.get("finished"):
                break
            if marked and gone:
                # Ansible has only what the job wrote of itself, and would wait for its end for ever.
                raise AnsibleError("the host was started anew, and the job ended with it: run this again")
        self._show(path, progress, alive)
        self._status(job["ansible_job_id"], task_vars, "cleanup")
        left = [alive, self._connection._shell.quote(path)] if ours else [alive]
        self._low_level_execute_command(f"rm -f {' '.join(left)}")
        for key in ("finished", "started", "ansible_job_id", "results_file", "stdout", "stderr"):
            result.pop(key, None)
        return result

    def _status(self, job: str, task_vars: Any, mode: str) -> dict[str, Any]:
        directory = self._remote_expand_user(self.get_shell_option("async_dir", default="~/.ansible_async"))
        result: dict[str, Any] = self._execute_module(
            module_name="ansible.legacy.async_status",
            module_args={"jid": job, "mode": mode, "_async_dir": directory},
            task_vars=task_vars,
        )
        return result

    def _show(self, path: str, progress: Progress, alive: str) -> bool:
        """Display the events that are new in the file; returns whether the file `alive` is gone.

        That lies in memory: a start of the host takes it away.
        """
        tail = f"tail -n +{progress.lines_read + 1} {self._connection._shell.quote(path)} 2>/dev/null"
        done = self._low_level_execute_command(f"{tail}; [ -e {alive} ] || exit {GONE}")
        for line in progress.read(done.get("stdout", "")):
            display.display(line)
        return bool(done.get("rc") == GONE)
