# Copyright: Even Keel contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The role job_launcher against the application that it configures: one set of tunables, described in two places."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from job_launcher import templates
from job_launcher.tunables import DRAIN_MARGIN, INFO, STOP_GRACE, load

ROLE = Path(__file__).resolve().parents[2] / "roles" / "job_launcher"
PREFIX = "job_launcher_"
#: Defaults that the role takes from the node it deploys to.
OF_THE_NODE = {"max_parallel_limit", "max_parallel"}


def read(*parts: str) -> Any:
    return yaml.safe_load(ROLE.joinpath(*parts).read_text())


OPTIONS = read("meta", "argument_specs.yml")["argument_specs"]["main"]["options"]
VARIABLES = read("vars", "main.yml")


def test_the_role_knows_each_tunable_and_no_other() -> None:
    whole, other = (set(VARIABLES[f"_job_launcher_{kind}_tunables"]) for kind in ("whole", "other"))
    assert whole == {name for name, info in INFO.items() if info.whole}
    assert other == {name for name, info in INFO.items() if not info.whole}
    bounded = {name.removeprefix(PREFIX) for name in VARIABLES["_job_launcher_bounds"]}
    assert bounded == {*INFO, "stop_grace", "port", "timeout"}


@pytest.mark.parametrize("name", INFO)
def test_a_tunable_has_the_same_type_default_and_bounds_in_both(name: str) -> None:
    info, option = INFO[name], OPTIONS[PREFIX + name]
    assert option["type"] == ("int" if info.whole else "float")
    assert VARIABLES["_job_launcher_bounds"][PREFIX + name] == {"min": info.minimum, "max": info.maximum}
    if name not in OF_THE_NODE:
        assert option["default"] == info.default


def test_the_role_and_the_application_mean_the_same_drain() -> None:
    grace = VARIABLES["_job_launcher_bounds"]["job_launcher_stop_grace"]
    assert grace["below"] == STOP_GRACE
    answers = (ROLE / "tasks" / "answers.yml").read_text()
    assert f"job_launcher_drain_timeout | float + {DRAIN_MARGIN} <= job_launcher_stop_grace" in answers
    assert INFO["drain_timeout"].default + DRAIN_MARGIN <= OPTIONS["job_launcher_stop_grace"]["default"] < STOP_GRACE


def test_the_application_takes_the_roles_defaults() -> None:
    given = {name: OPTIONS[PREFIX + name]["default"] for name in INFO if name not in OF_THE_NODE}
    assert load(given).to_json() == load({}).to_json()
    assert set(templates.load(VARIABLES["_job_launcher_demo"])) == {"demo"}


def test_the_image_and_the_role_mean_the_same_user_and_places() -> None:
    image = (ROLE.parents[1] / "apps" / "job_launcher" / "Dockerfile").read_text()
    user, config = VARIABLES["_job_launcher_user"], VARIABLES["_job_launcher_config_file"]
    assert f"USER {user}:{user}" in image
    assert f"JOB_LAUNCHER_CONFIG={config}" in image
    assert f"EXPOSE {VARIABLES['_job_launcher_inner_port']}" in image
    for mount in ("data", "engine"):
        target = VARIABLES[f"_job_launcher_{mount}_mount"]["Target"]
        assert f" -g launcher -m 0750 {target}" in image
    static = VARIABLES["_job_launcher_config"]["static_dir"]
    assert f"COPY --from=page /static {static}\n" in image
