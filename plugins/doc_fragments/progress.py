# Copyright: Even Keel contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Documentation shared by the modules that say on the controller's screen what they are at."""

from __future__ import annotations


class ModuleDocFragment:
    """Options and attributes of every module whose action plugin shows its progress."""

    DOCUMENTATION = r"""
options:
  progress:
    description:
      - Say on the controller's screen what is being done while the module is at it.
      - The module then runs as a background job on the host, which goes on if the connection is lost.
    type: bool
    default: false
  progress_file:
    description:
      - A file on the host to append one line of JSON to for each event, so that a long run can be watched.
    type: path
attributes:
  action:
    support: full
    description: An action plugin shows the progress; the module does the work.
  async:
    support: full
    description: Can be run in the background.
"""
