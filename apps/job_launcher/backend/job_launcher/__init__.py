# Copyright: Even Keel contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The job launcher: units of work as supervised processes, with live logs, leased numbers and a credit balance."""

__version__ = "0.1.0"
