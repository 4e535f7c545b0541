# Copyright: Even Keel contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the page says. How it behaves and looks is tested in a browser (tests/browser)."""

from __future__ import annotations

import re
import subprocess
import sys
from typing import Any
from xml.etree import ElementTree

import pytest
from ansible.errors import AnsibleFilterError
from ansible_collections.evenkeel.swarm.plugins.filter.throttling_page import throttling_page
from ansible_collections.evenkeel.swarm.plugins.module_utils import _page_tables, _report_page
from ansible_collections.evenkeel.swarm.plugins.module_utils import _report_charts as charts

from lab.settings import PROJECT
from tests.reports import MARKUP, container, estate, estate_compared, host, node, report, service, unmeasured

TEMPLATES = str(PROJECT / "roles" / "report" / "templates")
CAPTION = charts.Caption("one", "A title", "What it <shows> & more")
INTERVAL = {"estimate": None, "lower": 0.25, "upper": 3.98, "regime": "unidentifiable", "reason": "never idle"}


def cell(built: dict[str, Any], title: str, name: str = "a") -> _page_tables.Cell:
    """The cell of a service's row in the page's main table."""
    table = _report_page.view(built)["services"]
    index = [column.title for column in table.columns].index(title)
    found: _page_tables.Cell = next(row for row in table.rows if row[0].text == name)[index]
    return found


def single(row: dict[str, Any], **changed: Any) -> dict[str, Any]:
    return report([host("one", row)], [service(row["service"], **changed)], [node("one")])


def fact(built: dict[str, Any], label: str) -> _report_page.Fact:
    facts = _report_page.view(built)["nodes"][0]["facts"]
    found: _report_page.Fact = next(each for each in facts if each.label == label)
    return found


# --- words ---


def test_not_measured_is_said_and_sorts_last() -> None:
    built = single(unmeasured("a"))
    for title in ("Used", "Demand", "Throttled", "Held up by"):
        assert cell(built, title) == _page_tables.Cell("not measured", None, "missing"), title
    assert cell(built, "Regime").text == "not measured"
    assert cell(built, "Regime").more == ["one look"]


def test_a_measured_zero_is_a_zero() -> None:
    built = single(container("a", cpu_used=0.0, throttled_ratio=0.0, throttled_periods=0))
    assert cell(built, "Used") == _page_tables.Cell("0.00", 0.0)
    assert cell(built, "Throttled") == _page_tables.Cell("0%", 0.0)
    assert cell(built, "OOM") == _page_tables.Cell("0", 0)


def test_no_limit_is_a_word_and_sorts_as_the_largest() -> None:
    built = single(container("a", cpu_limit=None), limits={"cpus": None, "memory": None, "pids": None})
    assert cell(built, "Limit") == _page_tables.Cell("unlimited", float("inf"), "none")


def test_an_interval_sorts_by_its_upper_end() -> None:
    assert cell(single(container("a", demand=INTERVAL)), "Demand") == _page_tables.Cell("0.25..3.98", 3.98)


def test_the_main_cause_is_shown_and_all_four_unfold() -> None:
    built = single(container("a"))
    cause = {"throttled": 2.1, "contention": 0.4, "siblings": 0.0, "steal": None}
    built["services"][0]["measured"]["cause"] = cause
    shown = cell(built, "Held up by")
    assert (shown.text, shown.sort) == ("own limit 2.10", 2.1)
    assert shown.more == [
        "own limit: 2.10 cores",
        "other services: 0.40 cores",
        "own threads: 0.00 cores",
        "hypervisor: not measured",
    ]
    built["services"][0]["measured"]["cause"] = dict.fromkeys(cause, 0.0)
    assert cell(built, "Held up by").text == "nothing"


def test_drift_says_which_field_on_demand() -> None:
    drift = {"limits.cpus": {"expected": 0.5, "actual": None}}
    shown = cell(single(container("a"), drift=drift), "Drift")
    assert (shown.text, shown.more) == ("1 field", ["cpus is unlimited, should be 0.5"])
    assert cell(single(container("a"), in_table=False), "Drift").text == "not in the table"


def test_a_missing_part_leaves_what_the_others_want_at_least() -> None:
    built = report([host("one", container("a"), unmeasured("b"))], [service("a"), service("b")], [node("one")])
    assert fact(built, "Demand").text == "1.20+"
    assert fact(built, "Demand").note == "not all containers could be measured"


def test_a_node_that_nobody_looked_at_is_all_not_measured() -> None:
    shown = _report_page.view(report([], [], [node("one")]))["nodes"][0]
    missing = {each.label for each in shown["facts"] if each.missing}
    assert missing == {"Demand", "Used", "Steal", "Pressure", "Load", "Memory"}
    assert shown["verdict_text"] == "CPU demand was not measured"
    assert shown["charts"] == []


def test_changes_are_signed_and_rounded_to_what_is_shown() -> None:
    before = single(container("a", cpu_used=1.0))
    built = report([host("one", container("a", cpu_used=0.2501))], [service("a")], [node("one")], before=before)
    table = _report_page.view(built)["comparison"]["services"]
    index = [column.title for column in table.columns].index("Used change")
    assert table.rows[0][index].text == "−0.75"
    again = report([host("one", container("a", cpu_used=1.001))], [service("a")], [node("one")], before=before)
    assert _report_page.view(again)["comparison"]["services"].rows[0][index].text == "±0"


# --- the file ---


def test_the_page_names_markup_as_text() -> None:
    page = throttling_page(estate_compared(), TEMPLATES)
    assert MARKUP not in page
    assert "<script>document.title" not in page
    assert page.count("&lt;script&gt;document.title") > 3


def test_the_page_asks_for_nothing_from_elsewhere() -> None:
    page = throttling_page(estate_compared(), TEMPLATES)
    assert "default-src 'none'; img-src data:; style-src 'sha256-" in page
    assert re.findall(r"(?:src|href)=\"(?!#|data:,)[^\"]*\"", page) == []
    assert " style=" not in page
    assert "http://" not in page


def test_the_page_for_a_single_moment_has_no_comparison() -> None:
    page = throttling_page(estate(limited=True), TEMPLATES)
    assert "Before and after" not in page
    assert "How to read it" in page


# --- charts ---


def draw(*bars: charts.Bar, cores: float | None = 4.0) -> ElementTree.Element:
    return ElementTree.fromstring(charts.draw(bars, cores, charts.narrow(), CAPTION))  # noqa: S314 - our own


def test_a_chart_has_a_text_and_no_colours_of_its_own() -> None:
    svg = draw(charts.Bar("a", 0.25, INTERVAL, 0.25), charts.Bar("b", None, None, None))
    assert svg.attrib["role"] == "img"
    texts = {element.attrib.get("id"): element.text for element in svg.iter()}
    assert texts[svg.attrib["aria-labelledby"]] == "A title"
    assert texts[svg.attrib["aria-describedby"]] == "What it <shows> & more"
    classes = {name for element in svg.iter() for name in element.attrib.get("class", "").split()}
    assert {"fill-used", "fill-demand", "stroke-limit", "stroke-cores", "fill-ink"} <= classes
    values = {value for element in svg.iter() for name, value in element.attrib.items() if name in ("fill", "stroke")}
    assert values <= {"none"}
    assert not any("style" in element.attrib for element in svg.iter())


def test_names_in_a_chart_are_data() -> None:
    svg = draw(charts.Bar("$x_1$ <b>", 0.25, INTERVAL, None))
    assert "$x_1$ <b>" in [element.text for element in svg.iter("text")]


def test_every_class_of_a_chart_has_its_colour() -> None:
    svg = draw(charts.Bar("a", 0.25, INTERVAL, 0.25), charts.Bar("b", None, None, None))
    style = (PROJECT / "roles" / "report" / "templates" / "report.css").read_text()
    for element in svg.iter():
        for name in element.attrib.get("class", "chart").split():
            assert f".{name} {{" in style, name


def test_a_demand_without_an_upper_end_reaches_the_edge() -> None:
    open_ended = charts.Bar("a", 4.0, {"estimate": None, "lower": 4.0, "upper": None}, None)
    assert open_ended.open_ended
    assert "4.00+" in [element.text for element in draw(open_ended).iter("text")]


def test_ids_of_two_charts_differ() -> None:
    first, second = (
        charts.draw([charts.Bar("a", 0.2, INTERVAL, 1.0)], 4.0, charts.narrow(), charts.Caption(ident, "", ""))
        for ident in ("x", "y")
    )
    ids = [set(re.findall(r'\bid="([^"]+)"', each)) for each in (first, second)]
    assert ids[0]
    assert not ids[0] & ids[1]
    assert set(re.findall(r"url\(#([^)]+)\)", first)) <= ids[0]


def test_without_matplotlib_the_error_names_it_and_the_way_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(AnsibleFilterError, match=r"matplotlib.*report_html: false"):
        throttling_page(estate(limited=True), TEMPLATES)


def test_matplotlib_is_not_loaded_before_something_is_drawn() -> None:
    code = (
        "import sys; from ansible_collections.evenkeel.swarm.plugins.filter import throttling_page, throttling_report; "
        "sys.exit('matplotlib' in sys.modules)"
    )
    environment = {"PYTHONPATH": str(PROJECT / "collections")}
    assert subprocess.run([sys.executable, "-c", code], env=environment, check=False).returncode == 0
