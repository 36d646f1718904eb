"""The pages hold together: navigation, links, anchors, pictures, and that nothing that exists goes unmentioned."""

import ast
import builtins
import functools
import importlib
import importlib.util
import re
import sys
import xml.etree.ElementTree
from pathlib import Path

import pytest
from docs_helpers import DOCS, PAGES, ROOT, anchors, blocks, commands, links, nav, text_of

from understudy.cli import main
from understudy.cli_parser import SETTINGS, command_parser
from understudy.config import flags
from understudy.policies.spec import ACTIVATIONS
from understudy.preset_files import presets
from understudy.scene_flags import WITH_SCENES
from understudy.settings import METHODS as METHODS_OF_TRAINING
from understudy.settings import DistillSettings

METHODS = [p for p in PAGES if p.startswith("methods/") and p not in ("methods/index.md", "methods/runs.md")]


def script(name):
    spec = importlib.util.spec_from_file_location(name, ROOT / "scripts" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


@functools.cache
def parser():
    return command_parser()


def subcommands():
    (found,) = (a.choices for a in parser()._actions if isinstance(a.choices, dict))
    return found


def test_every_page_is_in_the_navigation_once():
    assert sorted(nav()) == PAGES


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_somewhere(page):
    for target in links(page):
        path, _, anchor = target.partition("#")
        file = (DOCS / page).parent / path if path else DOCS / page
        assert file.exists(), f"{page} links to {target}, which is not there"
        if anchor:
            inside = file.resolve().relative_to(DOCS).as_posix()
            assert anchor in anchors(inside), f"{page} links to {target}, but {inside} has no such heading"


def test_links_of_the_readme_lead_somewhere():
    text = re.sub(r"^```.*?^```$", "", (ROOT / "README.md").read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    targets = [t for t in re.findall(r"\]\(([^)\s]+)\)", text) if not t.startswith("http")]
    assert len(targets) > 50
    for target in targets:
        path, _, anchor = target.partition("#")
        assert (ROOT / path).exists(), f"README.md links to {target}, which is not there"
        if anchor:
            assert anchor in anchors(path.removeprefix("docs/")), f"README.md links to {target}: no such heading"


def test_no_picture_is_left_over():
    used = {((DOCS / page).parent / target).resolve() for page in PAGES for target in links(page)}
    pictures = {p for p in (DOCS / "images").rglob("*.*") if p.is_file()}
    # README.md shows one of them as well.
    used |= {ROOT / target for target in re.findall(r"\]\((docs/images/[^)]+)\)", (ROOT / "README.md").read_text())}
    assert pictures <= used


@pytest.mark.parametrize("path", sorted((DOCS / "images" / "methods").glob("*.svg")), ids=lambda p: p.stem)
def test_pictures_of_methods_are_small_and_sound(path):
    assert path.stat().st_size < 40_000
    root = xml.etree.ElementTree.parse(path).getroot()
    assert root.tag.endswith("svg") and root.find(".//{http://www.w3.org/2000/svg}path") is not None


def test_every_command_has_its_page():
    pages = {page for page in nav() if page in {f"{n}.md" for n in subcommands()} or page.startswith("commands/")}
    assert {Path(page).stem for page in pages} == set(subcommands()) | {"index"}
    listed = text_of("commands/index.md")
    for name in subcommands():
        assert f"[`{name}`](" in listed, f"docs/commands/index.md does not list {name}"


@pytest.mark.parametrize("name", sorted(subcommands()))
def test_flags_are_on_the_page_of_their_command(name):
    """Settings have a page of their own, and so have the flags of Unity scenes."""
    settings = {key for cls in SETTINGS.get(name, ()) for key, _, _ in flags(cls)}
    known = {f for a in subcommands()[name]._actions if a.dest not in settings for f in a.option_strings if f[1] == "-"}
    own = f"{name}.md" if f"{name}.md" in PAGES else f"commands/{name}.md"
    said = text_of(own) + (text_of("unity.md").split("## Flags")[1] if name in WITH_SCENES else "")
    assert [flag for flag in sorted(known - {"--help"}) if not re.search(rf"{flag}(?![\w-])", said)] == []


def test_the_page_of_settings_is_up_to_date():
    page = text_of("settings.md")
    assert page == script("write_settings_doc").page(), "run  python scripts/write_settings_doc.py"
    for part in re.split(r"^### ", page, flags=re.MULTILINE)[1:]:
        group = part.split("\n")[0]
        flags_of_it = re.findall(r"^\| `--(\S+)`", part, re.MULTILINE)
        assert flags_of_it and {name.rpartition(".")[0] or "run" for name in flags_of_it} == {group}


def test_every_preset_is_on_a_method_page():
    said = "".join(text_of(page) for page in METHODS)
    for name in presets():
        assert f"`{name}`" in said, f"no page in docs/methods names the preset {name}"


@pytest.mark.parametrize("page", METHODS)
def test_method_pages_are_complete(page):
    text = text_of(page)
    assert re.search(r"^## Equations?$", text, re.MULTILINE) and re.search(r"^ {4}\S", text, re.MULTILINE)
    assert re.search(r"\bSources?:", text) and re.search(r"^Presets?: \[`", text, re.MULTILINE)
    assert "../images/methods/" in text and commands(page)
    assert text_of("methods/index.md").count(f"]({Path(page).name})") == 1


def test_the_runs_of_the_method_pages_are_those_of_the_script():
    shown = {command.words for page in METHODS for command in commands(page)}
    drawn = script("draw_methods")
    assert {tuple(drawn.shlex.split(line)) for line in drawn.COMMANDS.values()} == shown
    pictures = {path.stem for path in (DOCS / "images" / "methods").glob("*.svg")}
    assert pictures == set(drawn.PICTURES)
    runs = {run for p in drawn.PICTURES.values() for run in (*p.names, p.reference) if run}
    assert runs <= set(drawn.COMMANDS) and {f"| `{run}` |" in text_of("methods/runs.md") for run in runs} == {True}


def test_a_student_runs_after_its_teacher():
    drawn = script("draw_methods")
    order = list(drawn.COMMANDS)
    for name, line in drawn.COMMANDS.items():
        for needed in re.findall(r"(?:--teacher|distill) runs/methods/(\S+)", line):
            assert order.index(needed) < order.index(name)
    assert drawn.needed(["kickstarting"]) == ["teacher", "scratch", "kickstarting"]


@pytest.mark.parametrize("page", PAGES)
def test_commands_know_their_flags(page):
    """What a page tells people to type is parsed; values are not looked at, and mistakes that are shown may stay."""
    shown = [c.words for c in commands(page) if not any("understudy: error" in line for line in c.output)]
    for words in shown:
        if words[0] == "understudy":
            _, unknown = parser().parse_known_args([w for w in words[1:] if w != "…"])
            assert not unknown, f"{page}: {' '.join(words)}"


@pytest.mark.parametrize("page", [page for page in PAGES if blocks(page, "python")])
def test_python_on_a_page_imports_what_it_uses(page):
    nodes = list(ast.walk(ast.parse("".join(block.text for block in blocks(page, "python")))))
    names = [node for node in nodes if isinstance(node, ast.Name)]
    known = {node.id for node in names if isinstance(node.ctx, ast.Store)} | set(dir(builtins))
    known |= {node.asname or node.name.split(".")[0] for node in nodes if isinstance(node, ast.alias)}
    known |= {node.arg for node in nodes if isinstance(node, ast.arg)}
    known |= {node.name for node in nodes if isinstance(node, ast.FunctionDef | ast.ClassDef | ast.ExceptHandler)}
    assert {node.id for node in names} - known <= {"__name__", "__file__"}


def test_help_and_presets_are_whole_sentences(capsys):
    for name, sub in subcommands().items():
        assert "%%" not in sub.format_help(), name
    main(["presets"])
    assert "give new transitions their priority; dueling, double, 3-step." in capsys.readouterr().out


@pytest.mark.parametrize("settings", [DistillSettings, *METHODS_OF_TRAINING.values()])
def test_help_names_every_activation(settings):
    (said,) = (field.metadata["help"] for key, _, field in flags(settings) if key.endswith(".activation"))
    assert re.findall(r"\w+", said) == [*ACTIVATIONS[:-1], "or", ACTIVATIONS[-1]]


def names_on_api_pages():
    return [n for page in PAGES if page.startswith("api/") for n in re.findall(r"^::: (\S+)$", text_of(page), re.M)]


def test_names_of_the_api_pages_exist():
    names = names_on_api_pages()
    assert len(names) == len(set(names)) > 30
    for name in names:
        try:
            importlib.import_module(name)
        except ImportError:
            home, _, attribute = name.rpartition(".")
            assert hasattr(importlib.import_module(home), attribute)
    import understudy

    api = text_of("api/index.md")
    for name in understudy.__all__:
        assert name == "__version__" or f"`understudy.{name}`" in api


def test_links_to_source_files_lead_to_api_pages_on_the_site():
    hook, known = script("docs_site"), set(names_on_api_pages())

    class Page:
        class file:  # noqa: N801 (as mkdocs calls it)
            src_uri = "methods/x.md"

    for page in PAGES:
        if page.startswith("api/"):
            continue
        turned = hook.on_page_markdown(text_of(page), Page())
        assert "src/understudy/" not in " ".join(re.findall(r"\]\(([^)]+)\)", turned)), page
        for name in re.findall(r"\]\[(understudy\.[\w.]+)\]", turned):
            assert name in known, f"{page} links to {name}, which no page in docs/api has"
    shown = hook.on_page_markdown(text_of("methods/ppo.md"), Page())
    assert "```yaml" in shown and "epochs: 10" in shown  # presets are shown whole


@pytest.mark.parametrize("page", [p for p in PAGES if p.startswith("howto/")] + ["examples.md"])
def test_scripts_on_pages_are_those_in_examples(page):
    files = {path.read_text(encoding="utf-8") for path in (ROOT / "examples").rglob("*.*") if path.is_file()}
    shown = blocks(page, "python") + blocks(page, "yaml")
    assert shown and all(block.text in files for block in shown), page
