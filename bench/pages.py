"""The gallery in a browser: its size, and when Chromium first paints it.

Scenes of the synthetic demo world, labelled by the embedded models. A figure is the value against
its bar; the paint is the browser's own entry ``first-contentful-paint``, the median of five starts
with an empty profile, at two widths of the window.
"""

import re
import socket
import statistics
import tempfile
from pathlib import Path

from browser import BROWSER, BROWSERS, document

from bench.labelled_scenes import CACHE, labelled_scenes
from bench.paired_timing import Figure, against
from secondlook.core.images import decode
from secondlook.core.ontology_yaml import load_ontology
from secondlook.core.types import LabelledImage
from secondlook.evaluation.run_stats import RunStats
from secondlook.reports import gallery

SEED, IMAGES, STARTS, MAX_MB, MAX_MS = 71, 600, 5, 10.0, 1000.0
OBSERVER = """<script>new PerformanceObserver(found => {
  for (const one of found.getEntries())
    if (one.name === "first-contentful-paint")
      document.documentElement.dataset.paint = one.startTime;
}).observe({type: "paint", buffered: true});</script></head>"""
WAIT = '<img src="http://127.0.0.1:{}/" alt=""></body>'
"""Never loads: the browser writes the document when it is loaded, or after its timeout."""


def run() -> list[Figure | str]:
    """Galleries of 600 and of 3 images."""
    rows: list[Figure | str] = []
    with tempfile.TemporaryDirectory() as folder:
        for count in (IMAGES, 3):
            page = written(Path(folder), count)
            megabytes = page.stat().st_size / 10**6
            rows.append(against(f"gallery of {count} images", megabytes, MAX_MB, "MB"))
            if BROWSER is None:
                rows.append(f"No paint: none of {', '.join(BROWSERS)} is installed.")
                continue
            for width in (1400, 400):
                paint = statistics.median(first_paint_ms(page, width) for _ in range(STARTS))
                name = f"first paint of {count} images at {width} px"
                rows.append(against(name, paint, MAX_MS, "ms"))
    return rows


def written(folder: Path, count: int) -> Path:
    """The gallery of that many scenes."""
    scenes = labelled_scenes(SEED, IMAGES)
    images = CACHE / f"seed-{SEED}-{IMAGES}" / "world" / "images"
    results = [(result.name, result) for result in scenes.results.values()][:count]
    return gallery.write(
        folder / f"{count}.html",
        "gallery",
        RunStats.of(result for _, result in results),
        gallery.pick((LabelledImage(*one) for one in results), count),
        lambda name: decode((images / name).read_bytes()).pixels,
        classes=load_ontology(scenes.ontology_file).names,
    )


def first_paint_ms(page: Path, width: int) -> float:
    """Of a copy that reports it, which its content policy would forbid."""
    text = re.sub(r"<meta[^>]*Content-Security[^>]*>", "", page.read_text(encoding="utf-8"))
    text = text.replace("</head>", OBSERVER, 1)
    copy = page.with_name("observed.html")
    with socket.create_server(("127.0.0.1", 0)) as silent:
        text = text.replace("</body>", WAIT.format(silent.getsockname()[1]), 1)
        copy.write_text(text, encoding="utf-8")
        painted = document(copy, "--timeout=5000", width=width)
    found = re.search(r'data-paint="([\d.]+)"', painted[:2000])
    assert found, "the browser painted nothing within 5 s"
    return float(found[1])
