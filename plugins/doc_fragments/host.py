# Copyright: Even Keel contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Documentation shared by the modules that read a host's own counters."""

from __future__ import annotations


class ModuleDocFragment:
    """Options of every module that finds a host's containers and reads their cgroups."""

    DOCUMENTATION = r"""
options:
  docker_host:
    description:
      - The engine's unix socket. Other transports are refused, as the counters are those of this host.
    type: str
    default: unix:///var/run/docker.sock
  cgroup_root:
    description:
      - Where the cgroup hierarchies are mounted.
    type: path
    default: /sys/fs/cgroup
requirements:
  - Python >= 3.11
author:
  - Even Keel contributors (@evenkeel)
"""

    PROC = r"""
options:
  proc_root:
    description:
      - Where the proc file system of the host is mounted.
    type: path
    default: /proc
"""

    LOOK = r"""
attributes:
  check_mode:
    description: Can run in check mode and return what it would in a normal run.
    support: full
    details:
      - This action does not change anything.
  diff_mode:
    description: Returns details on what has changed (or would change).
    support: N/A
    details:
      - This action does not change anything.
  idempotent:
    description: A second run with the same options changes nothing.
    support: N/A
    details:
      - This action does not change anything. Two runs measure two windows.
"""
