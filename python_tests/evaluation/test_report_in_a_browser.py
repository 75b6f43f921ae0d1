"""The report in headless Chromium: nothing on the console, every figure drawn, no sideways scrolling on a phone."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from html import unescape
from pathlib import Path

import pytest

from latent_ext.evaluation.report import Written

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
QUIET = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync",
    "--disable-background-networking", "--disable-component-update", "--enable-logging=stderr",
    "--allow-file-access-from-files",
)  # fmt: skip
# The page itself may run no script: another one shows it in frames as wide as a phone and a desk, and measures.
HARNESS = """<!DOCTYPE html><meta charset="utf-8"><body style="margin:0"><pre id="seen"></pre><script>
const seen = {};
const widths = [360, 1280];
function look(frame, width) {
  const page = frame.contentDocument;
  const figures = [...page.querySelectorAll("figure svg")].map(svg => {
    const box = svg.getBoundingClientRect();
    return [box.width, box.height, box.right, svg.querySelectorAll("path").length];
  });
  const texts = [...page.querySelectorAll("figure svg text")].map(text => text.getBoundingClientRect().height);
  seen[width] = {figures, smallest: Math.min(...texts), scroll: page.documentElement.scrollWidth,
                 scripts: page.scripts.length, ink: frame.contentWindow.getComputedStyle(page.body).color};
  if (Object.keys(seen).length === widths.length) {
    console.error("harness done");
    document.getElementById("seen").textContent = JSON.stringify(seen);
  }
}
for (const width of widths) {
  const frame = document.createElement("iframe");
  frame.style = `width:${width}px;height:900px;border:0`;
  frame.onload = () => look(frame, width);
  frame.src = "report.html";
  document.body.append(frame);
}
</script>"""


@pytest.fixture(scope="module")
def browser() -> str:
    found = next((path for name in NAMES if (path := shutil.which(name))), None)
    if found is None:
        pytest.skip(f"no browser: none of {', '.join(NAMES)} is installed")
    return found


def test_a_browser_shows_every_figure_and_has_nothing_to_complain_about(
    browser: str, hostile_report: Written, tmp_path: Path
) -> None:
    harness = hostile_report.page.parent / "harness.html"
    harness.write_text(HARNESS, encoding="utf-8")
    run = subprocess.run(
        [browser, *QUIET, f"--user-data-dir={tmp_path}", "--virtual-time-budget=10000", "--dump-dom", harness.as_uri()],
        capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    match = re.search(r'<pre id="seen">(\{.*?\})</pre>', run.stdout)
    assert match is not None, run.stderr[-2000:]
    seen = json.loads(unescape(match[1]))
    # The harness's own message shows that a console message would be seen.
    assert re.findall(r"CONSOLE[^\"]*\"([^\"]*)\"", run.stderr) == ["harness done"]
    for width, page in seen.items():
        assert len(page["figures"]) == len(hostile_report.figures) > 0
        assert page["scripts"] == 0
        assert page["scroll"] <= int(width)
        assert page["smallest"] > 6.0
        for wide, high, right, paths in page["figures"]:
            assert min(wide, high, paths) > 0
            assert right <= int(width)
