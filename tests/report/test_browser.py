"""The page in headless Chromium: no error, nothing wider than the window, contrast, keyboard."""

import html
import json
import re
import shutil
import subprocess

import pytest

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))),
                None)  # fmt: skip
WIDTHS = (400, 1200, 1900)

# Within the page: what a reader would stumble over.
LOOK = """
<script>
const failed = [];
addEventListener("error", event => failed.push(event.message));
addEventListener("load", () => {
  const paint = document.createElement("canvas").getContext("2d", {willReadFrequently: true});
  const rgba = colour => {
    paint.clearRect(0, 0, 1, 1);
    paint.fillStyle = colour;
    paint.fillRect(0, 0, 1, 1);
    return [...paint.getImageData(0, 0, 1, 1).data].map(x => x / 255);
  };
  const over = (top, below) => below.map((x, n) => n < 3 ? top[n] * top[3] + x * (1 - top[3]) : 1);
  const behind = node => {
    if (!node) return [1, 1, 1, 1];
    const own = rgba(getComputedStyle(node).backgroundColor);
    return own[3] === 1 ? own : over(own, behind(node.parentElement));
  };
  const light = colour => colour.slice(0, 3)
    .map(x => x <= .04045 ? x / 12.92 : ((x + .055) / 1.055) ** 2.4)
    .reduce((sum, x, n) => sum + x * [.2126, .7152, .0722][n], 0);
  document.querySelectorAll("details").forEach(part => part.open = true);
  const pale = [];
  for (const node of document.querySelectorAll("body *:not(svg *, script, style)")) {
    const own = [...node.childNodes].some(x => x.nodeType === 3 && x.textContent.trim());
    const ink = rgba(getComputedStyle(node).color);
    if (!own || !node.checkVisibility() || !ink[3]) continue;
    const ground = behind(node);
    const [low, high] = [light(over(ink, ground)), light(ground)].sort((a, b) => a - b);
    const contrast = (high + .05) / (low + .05);
    if (contrast < 4.5) pale.push([node.textContent.trim().slice(0, 40), contrast]);
  }
  const svg = document.querySelector(".map svg"), told = document.getElementById("told");
  const before = told.textContent;
  svg.dispatchEvent(new KeyboardEvent("keydown", {key: "ArrowRight", bubbles: true}));
  const walked = told.textContent;
  svg.querySelectorAll(".point")[3].dispatchEvent(new PointerEvent("pointerenter"));
  const root = document.documentElement;
  parent.postMessage({
    width: innerWidth, beyond: root.scrollWidth - root.clientWidth, pale, failed,
    told: [before, walked, told.textContent], focusable: svg.tabIndex,
    ground: getComputedStyle(document.body).backgroundColor,
  }, "*");
});
</script>
"""

HOST = """<!doctype html><meta charset="utf-8"><pre id="result"></pre><script>
const results = [];
addEventListener("message", event => {
  results.push(event.data);
  document.getElementById("result").textContent = JSON.stringify(results);
});
</script>"""


@pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium on this machine")
@pytest.mark.parametrize("dark", [False, True])
def test_a_page_reads_well_at_every_width(trained, tmp_path, dark):
    page = (trained / "report.html").read_text().replace("<title>", LOOK + "<title>", 1)
    frames = "".join(
        f'<iframe width="{width}" height="900" srcdoc="{html.escape(page)}"></iframe>'
        for width in WIDTHS
    )
    (tmp_path / "host.html").write_text(HOST + frames)
    done = subprocess.run(
        [CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--enable-logging=stderr",
         f"--user-data-dir={tmp_path / 'profile'}", "--virtual-time-budget=10000",
         f"--blink-settings=preferredColorScheme={int(not dark)}", "--dump-dom",
         f"file://{tmp_path / 'host.html'}"],
        capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    result = re.search(r'<pre id="result">(.*?)</pre>', done.stdout, re.DOTALL)
    assert result, done.stderr[-2000:]
    assert "CONSOLE" not in done.stderr, done.stderr
    seen = json.loads(html.unescape(result[1]))
    assert sorted(one["width"] for one in seen) == list(WIDTHS)
    for one in seen:
        assert one["beyond"] <= 0
        assert one["pale"] == []
        assert one["failed"] == []
        assert one["focusable"] == 0
        assert len(set(one["told"])) == 3
        assert (one["ground"] == "rgb(255, 255, 255)") != dark
