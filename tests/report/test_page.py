"""Reports as a reader meets them: complete in themselves, with the numbers of the run, and harmless."""

import contextlib
import json
import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path

import pytest
import yaml
from PIL import Image

from understudy.cli import main
from understudy.evaluation.tables import number
from understudy.population.values import Result, append
from understudy.report.runtimes import Size

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
VOID = {"meta", "img", "link", "br", "input", "hr"}


class Page(HTMLParser):
    """Tags with their attributes, and the text without style and script."""

    def __init__(self, source):
        super().__init__(convert_charrefs=True)
        self.tags, self.words, self._open = [], [], []
        self.feed(source)
        assert not self._open, f"never closed: {self._open}"

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self._open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self._open.pop() == tag

    def handle_data(self, data):
        if self._open and self._open[-1] not in ("style", "script"):
            self.words.append(data)

    @property
    def text(self):
        return re.sub(r"\s+", " ", " ".join(self.words).replace("−", "-"))


def page_of(*words, out="report.html"):
    main(["report", *map(str, words), "--out", str(out)])
    source = Path(out).read_text(encoding="utf-8")
    return source, Page(source)


@pytest.fixture(scope="module")
def distilled(runs):
    with contextlib.chdir(runs):
        return page_of("run")


def loads(page):
    """Everything that a browser would fetch."""
    names = ("src", "href", "srcset", "data", "action", "poster", "xlink:href")
    return [value for _, attributes in page.tags for name, value in attributes.items() if name in names]


def test_nothing_is_loaded_from_anywhere(distilled):
    source, page = distilled
    assert all(value.startswith("data:") for value in loads(page))
    assert not any(tag in ("link", "iframe", "object", "base") for tag, _ in page.tags)
    assert "http" not in source and "@import" not in source and "url(" not in source


def test_the_numbers_are_those_of_the_run(distilled, runs):
    _, page = distilled
    result = json.loads((runs / "run" / "result.json").read_text())
    student = result["rows"][1]
    for value in (student["evaluation"]["mean"], *student["evaluation"]["mean_interval"], result["random"]["mean"]):
        assert number(value) in page.text
    assert f"{student['parameters']:,}" in page.text  # 16x16 on 4 inputs, 2 outputs
    assert student["parameters"] == 4 * 16 + 16 + 16 * 16 + 16 + 16 * 2 + 2
    assert f"{2 * (4 * 16 + 16 * 16 + 16 * 2)} FLOP" in page.text
    assert f"{100 * student['ratio']:.1f} %" in page.text.replace("\u00a0", " ")
    summary = json.loads((runs / "run" / "summary.json").read_text())
    assert f"{summary['env_steps']:,} of at most" in page.text
    episodes = [a for tag, a in page.tags if tag == "circle" and a["class"].startswith("dot c6")]
    assert len(episodes) == 2 * 12, "every episode of the teacher, in both drawings"


def test_it_says_what_came_out_and_how_to_repeat_it(distilled):
    _, page = distilled
    text = page.text.replace("\u00a0", " ")
    assert "On par with its teacher" in text and "passes at level 0.05" in text
    assert "Where they disagree" in text and "obs[3]" in text
    assert "understudy distill mine:balance --env CartPole-v1 --preset distill-discrete" in text
    assert "update_to_data: 0.8" in text


def test_charts_have_names_and_numbers_under_the_pointer(distilled):
    _, page = distilled
    charts = [a for tag, a in page.tags if tag == "svg"]
    assert charts and all(a["role"] == "img" and len(a["aria-label"]) > 20 for a in charts)
    tips = [a["data-tip"] for tag, a in page.tags if tag == "circle"]
    assert any("env steps" in tip for tip in tips) and all(tips)
    assert all("alt" in a for tag, a in page.tags if tag == "img")
    assert all("aria-label" in a for tag, a in page.tags if tag == "div" and a.get("role") == "region")


def test_a_hostile_name_stays_text(here, tmp_path, monkeypatch):
    evil = "<img src=x onerror=alert(1)>\"'&{{7*7}}"
    folder = tmp_path / evil
    shutil.copytree("run", folder)
    config = yaml.safe_load((folder / "config.yaml").read_text())
    config["teachers"] = [f"{evil}:x"]
    config["environment"]["id"] = f"</title><script>alert(2)</script>{evil}"
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    result = json.loads((folder / "result.json").read_text())
    result["rows"][1]["name"], result["notes"] = evil, [f"</script>{evil}"]
    (folder / "result.json").write_text(json.dumps(result))
    source, page = page_of(folder, "--no-play", out=tmp_path / "evil.html")
    assert [a for tag, a in page.tags if tag == "img" or "onerror" in a] == []
    assert [tag for tag, _ in page.tags].count("script") == 1
    assert "{{7*7}}" in page.text and "49}}" not in source
    main(["report", str(folder), "--no-play", "--format", "markdown", "--out", str(tmp_path / "evil.md")])
    card = (tmp_path / "evil.md").read_text()
    body = re.sub(r"```.*?```", "", card.split("---\n", 2)[2], flags=re.S)
    assert "<" not in body, "nothing outside of the code is markup"


def test_training_has_no_teacher(here):
    _, page = page_of("trained", out="trained.html")
    summary = json.loads((here / "trained" / "summary.json").read_text())
    assert f"Return {number(summary['score'])}" in page.text
    assert len(summary["returns"]) == 6
    assert sum(a["class"].startswith("dot c0") for tag, a in page.tags if tag == "circle") == 2 * 6
    assert "Entropy" in page.text and "Where they disagree" not in page.text


def test_kickstarting_against_scratch(here):
    _, page = page_of("taught", "--episodes", "6", out="taught.html")
    found = json.loads((here / "taught" / "comparison.json").read_text())
    text = page.text.replace("\u00a0", " ")
    for saving in found["savings"]:
        reached = [k for k in saving["student"] if k is not None]
        assert (f"{sum(reached) / len(reached):,.0f}" if reached else "never") in text
    assert "λ, weight of the teacher" in text and "to the teacher, nats" in text
    assert "95 % bootstrap interval over 2 runs" in text
    assert "--against-scratch --seeds 2" in text
    rows = mean_tips(page)
    assert {row.split(":")[0] for row in rows} == {"teacher", "kickstarted, seed 0", "scratch, seed 0", "random"}
    assert "one was played: kickstarted, seed 0 of 2 runs; scratch, seed 0 of 2 runs" in text


def mean_tips(page):
    return [a["data-tip"] for tag, a in page.tags if tag == "circle" and "mean" in a["class"].split()]


@pytest.fixture
def untimed(monkeypatch):
    """Nothing is timed, which takes seconds."""
    monkeypatch.setattr("understudy.report.measure.measure", lambda name, *_: Size(name, None, None, ()))


def test_the_best_of_several_teachers_is_the_reference(here, tmp_path, untimed):
    folder = tmp_path / "two"
    shutil.copytree("taught/kickstarted-0", folder)
    config = yaml.safe_load((folder / "config.yaml").read_text())
    config["settings"]["teaching"]["teachers"] = ["trained", "mine:balance"]  # the first is the weaker one
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    _, page = page_of(folder, "--episodes", "4", out=tmp_path / "two.html")
    names = [tip.split(":")[0] for tip in mean_tips(page)]
    assert list(dict.fromkeys(names)) == ["teacher_2", "teacher_1", "student", "random"]
    assert "on par with teacher_2, its best teacher" in page.text.lower() and "1 is teacher_2" in page.text
    colors = [a["class"] for tag, a in page.tags if tag == "circle" and a["class"].startswith("dot c6")]
    assert len(colors) == 2 * 2 * 4, "every episode of both teachers, in both drawings"


def test_one_seed_of_several_is_named(here, tmp_path, untimed):
    """The policy of a model card, and its return, are those of the first seed; the headline's are means."""
    runs = [f"taught/scratch-{i}" for i in range(2)]
    main(["report", *runs, "--format", "markdown", "--out", str(tmp_path / "card.md")])
    card = (tmp_path / "card.md").read_text()
    front = yaml.safe_load(card.split("---\n")[1])
    assert front["model-index"][0]["name"].endswith("seed 0 of 2 runs") and "- seed: 0, the first of 2 runs" in card
    runs = [f"taught/kickstarted-{i}" for i in range(2)]
    _, page = page_of(*runs, "--episodes", "3", out=tmp_path / "seeds.html")
    assert "(seed 0 of 2 runs)" in page.text and "student, seed 0" in page.text


def test_a_population_has_curves_and_its_picture(here, tmp_path):
    config = yaml.safe_load(Path("taught/kickstarted-0/config.yaml").read_text())
    config["settings"]["pbt"]["population"] = 2
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(config))
    results = [Result(i, member, 512 * i, 50.0 * i + member, {"weight": 0.5}, 0, 1000.0 + i)
               for i in (1, 2) for member in (0, 1)]  # fmt: skip
    for result in results:
        append(tmp_path / "population.jsonl", result)
    Image.new("RGB", (4, 4)).save(tmp_path / "population.png")
    source, page = page_of(tmp_path, "--no-play", out=tmp_path / "report.html")
    assert "nothing was logged" not in page.text and "2 members of so many env steps each" in page.text
    assert "population.png" in page.text and "data:image/png" in source
    assert "student 1,024 101.0" in page.text, "the best member of the last interval"


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["--episodes", "1"], "take --episodes 2 or more"),
        (["--no-play"], "make the report without --no-play"),
    ],
)
def test_why_there_is_no_table(here, tmp_path, untimed, words, line):
    _, page = page_of("taught", *words, out=tmp_path / "page.html")
    assert f"there is no table of fresh episodes: {line} " in page.text


def test_a_run_that_was_killed_tells_what_is_missing(here, tmp_path):
    folder = tmp_path / "killed"
    folder.mkdir()
    shutil.copy("run/config.yaml", folder)
    _, page = page_of(folder, out=tmp_path / "empty.html")
    for line in ("the run has not ended", "nothing was logged yet", "no policy was saved yet", "no table of fresh"):
        assert line in page.text
    assert "No verdict yet" in page.text
    lines = Path("run/log.jsonl").read_text()
    (folder / "log.jsonl").write_text(lines + '{"env_steps": 99999, "lo')  # while it is being written
    shutil.copy("run/last.safetensors", folder)
    _, page = page_of(folder, "--episodes", "6", out=tmp_path / "killed.html")
    assert "nothing was logged" not in page.text and "99,999" not in page.text
    assert "On 6 fresh episodes" in page.text, "the table was measured now"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["nowhere"], "no run at nowhere"),
        (["."], "holds runs, and is none itself"),
        (["run", "--out", "."], "is a folder"),
        (["run", "--out", "x.pdf"], "--out x.pdf: a report in html ends in .html"),
        (["run", "--out", "x.md"], "or pass --format markdown"),
        (["taught", "taught"], "taught holds another comparison with scratch"),
        (["run", "--episodes", "-1"], "--episodes must be 0 or more"),
        (["run", "--format", "pdf"], "invalid choice"),
    ],
)
def test_mistakes_end_in_one_line(here, words, message, capsys):
    with pytest.raises(SystemExit) as ended:
        main(["report", *words])
    error = capsys.readouterr().err
    assert ended.value.code == 2 and error.count("\n") == 1 and message in error


def test_markdown_is_a_model_card(here, tmp_path):
    main(["report", "run", "--format", "markdown", "--out", str(tmp_path / "card.md")])
    card = (tmp_path / "card.md").read_text()
    front = yaml.safe_load(card.split("---\n")[1])
    assert front["library_name"] == "understudy" and "CartPole-v1" in front["tags"]
    metric = front["model-index"][0]["results"][0]["metrics"][0]
    result = json.loads((here / "run" / "result.json").read_text())["rows"][1]["evaluation"]
    assert metric["value"] == f"{result['mean']:.2f} +/- {result['std']:.2f}"
    assert "| policy | return |" in card and "## Do it again" in card


WRAPPER = """<title>none</title><body style="margin:0"><iframe id="f" style="border:0;width:{width}px;height:900px"
src="{page}#{theme}"></iframe><script>f.onload = function () {{ var d = f.contentDocument, s = getComputedStyle(d.body);
document.title = [d.documentElement.scrollWidth, s.backgroundColor, d.getElementById("theme").textContent,
getComputedStyle(d.querySelector(".wide")).display, getComputedStyle(d.querySelector(".narrow")).display].join("|"); }}
</script>"""


@pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed")
@pytest.mark.parametrize(("width", "theme"), [(390, "light"), (390, "dark"), (1100, "light"), (1100, "dark")])
def test_in_a_browser(distilled, tmp_path, width, theme):
    (tmp_path / "page.html").write_text(distilled[0], encoding="utf-8")
    (tmp_path / "frame.html").write_text(WRAPPER.format(width=width, theme=theme, page="page.html"))
    command = [CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--allow-file-access-from-files", "--dump-dom",
               f"--user-data-dir={tmp_path}/profile", "--window-size=1200,900", "--virtual-time-budget=4000",
               f"file://{tmp_path}/frame.html"]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, timeout=400, check=True)
    found = re.search(r"<title>(.*?)</title>", done.stdout)[1].split("|")
    assert int(found[0]) <= width, "nothing sticks out to the side"
    assert found[1] == {"light": "rgb(251, 250, 247)", "dark": "rgb(20, 22, 26)"}[theme]
    assert found[2] == theme.capitalize(), "the script ran"
    assert found[3:] == (["none", "block"] if width < 640 else ["block", "none"])
