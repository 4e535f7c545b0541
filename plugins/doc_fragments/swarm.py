# Copyright: Even Keel contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Documentation shared by the modules that talk to a Docker engine."""

from __future__ import annotations


class ModuleDocFragment:
    """Options and notes of every module that reads or writes a swarm."""

    DOCUMENTATION = r"""
options:
  docker_host:
    description:
      - The Docker engine to talk to, as a URL that the Docker SDK understands.
    type: str
    default: unix:///var/run/docker.sock
requirements:
  - Python >= 3.11
  - L(Docker SDK for Python,https://docker-py.readthedocs.io) >= 5.0.3 (C(python3-docker) of Debian 12 and newer)
  - Docker API >= 1.41 (Docker Engine 20.10)
author:
  - Even Keel contributors (@evenkeel)
"""

    TABLE = r"""
options:
  table:
    description:
      - The table of limits, one mapping a row, with the keys that follow.
      - C(service), the exact name of a service; it stands alone.
      - Instead of it C(glob), a pattern for names in which C(*), C(?) and C([...]) work as in a shell and case matters,
        and/or C(labels), a mapping of labels which must all be on the service or on its containers.
      - C(limits), a mapping with any of C(cpus) (a number of cores), C(memory) and C(pids). C(reservations), a mapping
        with C(cpus) and/or C(memory). C(replicas), for replicated services only; V(0) stops a service.
      - Memory is written as V(512M), V(1G), V(1.5GiB) or bytes; units are binary, as in Docker's CLI.
      - A limit that is left out stays as it is. The word V(unlimited) removes one; V(0) is refused.
      - A service gets the most specific row that matches it, whole. An exact name comes before the number of labels,
        that before the number of literal characters in the glob.
      - Two equally specific rows for one service, two rows with one selector, a row that matches no service and a value
        that makes no sense are errors. All errors of a table are reported together and nothing is changed.
    type: list
    elements: dict
"""
