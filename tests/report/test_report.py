"""The report in a headless browser."""

import json
import re
import shutil
from collections.abc import Iterator
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from restore_vlm import UserError, cli, fit
from restore_vlm.figures import draw, read_records
from restore_vlm.figures.style import VARIABLES
from restore_vlm.report import render_page, section, write_report

BROWSER = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
SHORT = ("training.epochs=2", "training.batch=4")
EVIL = "</script><script>alert(1)</script>"


@pytest.fixture(scope="module")
def run(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with a class named after an attack, tested and measured."""
    folder = tmp_path_factory.mktemp("report")
    data, out = folder / "photos.jsonl", folder / "run"
    paths = sorted(photos.rglob("*.*"))
    first = paths[0].parent.name
    rows = [{"path": str(p), "class": EVIL if p.parent.name == first else p.parent.name} for p in paths]
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    fit(data, "restore", shots=2, settings=SHORT, out=out, log_shift=True)
    for command in ("evaluate", "shift"):
        result = CliRunner().invoke(cli.app, [command, str(out), "--data", str(data)])
        assert result.exit_code == 0, result.output
    return out


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    if BROWSER is None:
        pytest.skip("Chromium is not installed")
    from selenium import webdriver

    options = webdriver.ChromeOptions()
    options.binary_location = BROWSER
    flags = "--headless=new --no-sandbox --disable-gpu --disable-quic --no-first-run --window-size=1200,1400"
    quiet = "--disable-background-networking --disable-component-update --disable-sync"
    for flag in (flags + " " + quiet).split():
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    found = shutil.which("chromedriver")
    service = webdriver.ChromeService(found) if found else None
    driver = webdriver.Chrome(options=options, service=service)  # type: ignore[arg-type]
    yield driver
    driver.quit()


def opened(browser: Any, page: Path) -> None:
    browser.get_log("performance")
    browser.get(page.as_uri())
    wait = "const done = arguments[0]; window.ready.then(() => done(''), (e) => done(String(e)))"
    assert browser.execute_async_script(wait) == ""


def test_a_grid_in_the_browser(grid: Path, tmp_path: Path, browser: Any) -> None:
    page = tmp_path / "report.html"
    write_report([grid], page)
    assert page.stat().st_size < 5e6
    opened(browser, page)
    assert [e for e in browser.get_log("browser") if e["level"] == "SEVERE"] == []
    events = [json.loads(e["message"])["message"] for e in browser.get_log("performance")]
    asked = [e["params"]["request"]["url"] for e in events if e["method"] == "Network.requestWillBeSent"]
    assert {url for url in asked if not url.startswith("data:")} == {page.as_uri()}
    charts = browser.find_elements("css selector", "[data-chart]")
    specs = [spec["spec"] for spec in embedded(page, "specs")]
    assert len(charts) == len(specs) == 17
    assert all(len(c.find_elements("css selector", "svg path")) > 3 for c in charts)
    headings = [h.tag_name for h in browser.find_elements("css selector", "h1, h2")]
    assert headings[0] == "h1" and headings.count("h1") == 1


def embedded(page: Path, name: str) -> Any:
    (found,) = re.findall(f'<script type="application/json" id="{name}">(.*?)</script>', page.read_text())
    return json.loads(found)


def test_the_charts_are_those_of_the_figures(grid: Path, tmp_path: Path) -> None:
    page, records = tmp_path / "report.html", read_records([grid])
    write_report([str(grid)], str(page))
    specs, tables = embedded(page, "specs"), embedded(page, "rows")
    shown = {spec["spec"]["description"]: spec for spec in specs}
    for name in ("ablation", "sensitivity", "discrepancy-gain", "shift-accuracy"):
        figure = draw(name, records)
        for panel in figure.panels:
            expected = panel.page_spec(figure.numbers.caption)
            spec = shown[expected["description"]]
            if name != "discrepancy-gain":  # whose colours are those of all methods of the page
                assert spec["spec"] == expected
            assert without_scales(spec["spec"]) == without_scales(expected)
            packed = tables[spec["rows"]]
            found = [dict(zip(packed["columns"], row, strict=True)) for row in packed["rows"]]
            whole = [
                {k: v for k, v in row.items() if k != "choice"} for row in found if not row.get("choice")
            ]
            rounded = section.packed(panel.rows)
            assert whole == [dict(zip(rounded["columns"], row, strict=True)) for row in rounded["rows"]]


def without_scales(spec: Any) -> Any:
    if isinstance(spec, dict):
        return {k: without_scales(v) for k, v in spec.items() if k != "scale"}
    return [without_scales(v) for v in spec] if isinstance(spec, list) else spec


def test_colours_are_those_of_the_style_sheet() -> None:
    css = (files("restore_vlm.report") / "templates" / "style.css").read_text()
    light = dict(re.findall(r"(--\w+): (#\w+)", css.partition("}")[0]))
    assert {variable: colour for colour, variable in VARIABLES.items()}.items() <= light.items()


def test_a_dataset_alone(grid: Path, tmp_path: Path, browser: Any) -> None:
    write_report([grid], tmp_path / "report.html")
    opened(browser, tmp_path / "report.html")
    own = [r for r in read_records([grid]) if r.dataset == "plain" and r.method == "vpt" and not r.settings]
    select = browser.find_element("css selector", "select[name=dataset]")
    browser.execute_script("arguments[0].value = 'plain'", select)
    redraw = "const done = arguments[0]; redraw().then(() => done(''), (e) => done(String(e)))"
    assert browser.execute_async_script(redraw) == ""
    labels = "return [...document.querySelectorAll('[data-chart] [aria-label*=\"method: vpt\"]')]"
    texts = browser.execute_script(f"{labels}.map(e => e.getAttribute('aria-label'))")
    for half in ("base", "novel"):
        (accuracy,) = [r.accuracy for r in own if r.part == half]
        assert any(f"half: {half}" in t and f"accuracy: {accuracy:.2f}" in t for t in texts)


def column(browser: Any, table: str, place: int) -> list[str]:
    script = f"return [...document.getElementById('{table}').tBodies[0].rows]"
    return browser.execute_script(f"{script}.filter(r => !r.hidden).map(r => r.cells[{place}].textContent)")


def click(browser: Any, element: Any) -> None:
    browser.execute_script("arguments[0].scrollIntoView({block: 'center'})", element)
    element.click()


def test_tables_sort_and_filter(grid: Path, tmp_path: Path, browser: Any) -> None:
    write_report([grid], tmp_path / "report.html")
    opened(browser, tmp_path / "report.html")
    table = "table-calibration-1"
    head = browser.find_element("css selector", f"#{table} th:nth-child(3)")
    button = head.find_element("css selector", "button")
    click(browser, button)
    values = [float(v.split()[0]) for v in column(browser, table, 2)]
    assert head.get_attribute("aria-sort") == "descending" and values == sorted(values, reverse=True)
    button.send_keys("\ue007")
    assert head.get_attribute("aria-sort") == "ascending"
    assert [float(v.split()[0]) for v in column(browser, table, 2)] == sorted(values)
    click(browser, browser.find_element("css selector", f"#{table} th:nth-child(1) button"))
    assert column(browser, table, 0) == sorted(column(browser, table, 0))
    browser.find_element("css selector", f"[data-filter='{table}']").send_keys("vpt")
    assert set(column(browser, table, 0)) == {"vpt"}


def test_missing_values_sort_last(run: Path, tmp_path: Path, browser: Any) -> None:
    write_report([run], tmp_path / "report.html")
    opened(browser, tmp_path / "report.html")
    table = "table-classes-1"
    script = f"document.getElementById('{table}').tBodies[0].rows[0].cells[3].textContent = '-'"
    browser.execute_script(script)
    button = browser.find_element("css selector", f"#{table} th:nth-child(4) button")
    for _ in range(2):
        click(browser, button)
        values = column(browser, table, 3)
        assert values[-1] == "-" and "-" not in values[:-1]


def drawn(browser: Any, title: str) -> str:
    """The marks of a chart."""
    figure = f"[...document.querySelectorAll('figure')].find(f => f.textContent.includes('{title}'))"
    marks = "[...f.querySelectorAll('.mark-symbol path, .mark-line path')].map(p => p.getAttribute('d'))"
    return browser.execute_script(f"const f = {figure}; return {marks}.join()")


def test_controls_choose_what_charts_show(grid: Path, tmp_path: Path, browser: Any) -> None:
    write_report([grid], tmp_path / "report.html")
    opened(browser, tmp_path / "report.html")
    seen = {drawn(browser, "Reliability")}
    redraw = "const done = arguments[0]; redraw().then(() => done(''), (e) => done(String(e)))"
    for name, value in (("scope", "base classes"), ("dataset", "plain")):
        select = browser.find_element("css selector", f"select[name={name}]")
        browser.execute_script("arguments[0].value = arguments[1]", select, value)
        assert browser.execute_async_script(redraw) == ""
        seen.add(drawn(browser, "Reliability"))
    click(browser, browser.find_element("css selector", "[data-all='']"))
    assert browser.execute_async_script(redraw) == ""
    assert browser.find_element("id", "count").text == "0 of 8"
    assert len(seen) == 3 and len(drawn(browser, "Reliability")) < min(map(len, seen))
    click(browser, browser.find_element("css selector", "[data-all='1']"))
    assert browser.execute_async_script(redraw) == ""
    assert len(drawn(browser, "Reliability")) > max(map(len, seen)) / 2


def test_phone_and_dark(grid: Path, tmp_path: Path, browser: Any) -> None:
    write_report([grid], tmp_path / "report.html")
    opened(browser, tmp_path / "report.html")
    metrics = {"width": 390, "height": 800, "deviceScaleFactor": 1, "mobile": True}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
    try:
        opened(browser, tmp_path / "report.html")
        assert browser.execute_script("return document.documentElement.scrollWidth") == 390
    finally:
        browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
    colour = "return getComputedStyle(document.body).backgroundColor"
    before = browser.execute_script(colour)
    theme = browser.find_element("id", "theme")
    browser.execute_script("arguments[0].click()", theme)
    assert browser.execute_script(colour) != before
    assert theme.get_attribute("aria-pressed") in ("true", "false")
    dark = {"features": [{"name": "prefers-color-scheme", "value": "dark"}]}
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", dark)
    opened(browser, tmp_path / "report.html")
    assert browser.execute_script(colour) == "rgb(15, 20, 25)"
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": []})


def test_a_run_with_a_hostile_class(run: Path, tmp_path: Path, browser: Any) -> None:
    page = tmp_path / "report.html"
    write_report([run], page)
    opened(browser, page)
    assert [e for e in browser.get_log("browser") if e["level"] == "SEVERE"] == []
    text = browser.find_element("tag name", "body").text
    assert EVIL in text
    assert "Feature shift while training" in text and "One seed" in text
    assert "restore-vlm train" in text and "restore-vlm evaluate" in text


def test_mistakes_have_photographs(run: Path) -> None:
    page = render_page([run])
    assert "taken for" in page
    assert page.count("data:image/webp;base64,") >= 1


def test_photographs_that_are_gone(run: Path, tmp_path: Path) -> None:
    page = render_page([run], str(tmp_path / "nowhere"))
    assert "The photographs cannot be shown" in page and "data:image/webp" not in page


def test_everything_inside(run: Path) -> None:
    page = re.sub(r"<script>.*?</script>", "", render_page([run]), flags=re.DOTALL)
    assert EVIL not in page
    assert not re.findall(r"<(?:script|link|img)[^>]+(?:src|href)=\"(?!data:)", page)
    assert "default-src 'none'" in page


def test_command_line(run: Path, tmp_path: Path) -> None:
    result = CliRunner().invoke(cli.app, ["report", str(run), "--out", str(tmp_path / "r.html")])
    assert result.exit_code == 0 and "r.html" in result.stderr and (tmp_path / "r.html").is_file()


def test_nothing_to_report(tmp_path: Path, photos: Path) -> None:
    with pytest.raises(UserError, match="neither a run of restore-vlm train nor a grid"):
        write_report([tmp_path], tmp_path / "r.html")
    fit(photos, "clip", shots=2, out=tmp_path / "run")
    with pytest.raises(UserError, match=r"No test of .* is finished; run restore-vlm evaluate"):
        write_report([tmp_path / "run"], tmp_path / "r.html")
    assert not (tmp_path / "r.html").exists()


@pytest.mark.parametrize("text", ['{"packages', "{}", "[]"])
def test_a_damaged_file_of_the_machine(run: Path, tmp_path: Path, text: str) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(run, copy)
    (copy / "environment.json").write_text(text)
    with pytest.raises(UserError, match=r"environment\.json is damaged \(.*\); remove it"):
        write_report([copy], tmp_path / "report.html")
    assert not (tmp_path / "report.html").exists()


def test_where_it_cannot_be_written(run: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="Cannot write"):
        write_report([run], tmp_path / "file" / "r.html")


def test_a_tower_without_blocks(resnet_grid: Path) -> None:
    page = render_page([resnet_grid])
    assert "A tower that shows no blocks is measured at its final features alone." in page
    assert "Shift by block, text tower" in page
    assert "Shift by block, image tower" not in page and "Discrepancy by block" not in page
