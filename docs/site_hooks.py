"""What the documentation site (mkdocs.yml) has beside the pages of docs/: pages that are generated
from the code, files of the project's root, reports, and llms.txt."""

from __future__ import annotations

import json
import re
import tempfile
from html import unescape
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results"
REPORTS = ("fair-fashion-mnist", "fair-cifar10", "fair-banking77")
"""Committed comparisons whose pages are in the gallery."""
_ROLE = re.compile(r":(?:func|class|mod|meth|data|attr|exc):")
_llms: dict[str, tuple[str, str]] = {}
"""Of each page, its title and its Markdown."""


def on_files(files: Any, *, config: Any) -> Any:
    made = {
        "signatures.md": signatures(),
        "commands.md": commands(),
        "recipes.md": recipes(),
        **{name: from_root(name) for name in ("BENCHMARKS.md", "CHANGELOG.md")},
    }
    for name, content in made.items():
        files.append(File.generated(config, name, content=content))
    for name in REPORTS:
        content = report(RESULTS / f"{name}.json")
        files.append(File.generated(config, f"gallery/{name}.html", content=content))
    for name in tables_of_comparisons():
        for ending, content in frontiers(RESULTS / f"{name}.json").items():
            files.append(File.generated(config, f"figures/{name}{ending}", content=content))
    return files


def on_page_markdown(markdown: str, *, page: Any, **_: Any) -> str:
    """Links to files outside docs/ lead to their page here, or are text."""
    text = re.sub(r"\]\(\.\./(BENCHMARKS\.md)", r"](\1", markdown)
    text = re.sub(r"\[([^\]]*)\]\(\.\./[^)]*\)", r"\1", text)
    _llms[page.file.src_uri] = (str(page.title), text)
    if page.file.src_uri == "BENCHMARKS.md":
        for name in tables_of_comparisons():
            end = f"<!-- /{name} -->"
            text = text.replace(end, f"{end}\n\n{figure(name)}")
    return text.replace("<!-- gate -->", gate_figure())


def on_page_content(html: str, *, page: Any, **_: Any) -> str:
    """Tables can be scrolled by the keyboard where they are wider than the page."""
    html = html.replace("<table>", '<table tabindex="0">')
    return _ROLE.sub("", html) if page.file.src_uri == "signatures.md" else html


def on_post_page(html: str, **_: Any) -> str:
    """The theme's dialog has no name for those who hear it."""
    dialog = 'data-md-component="search" role="dialog"'
    return html.replace(dialog, f'{dialog} aria-label="Search"')


def on_post_build(*, config: Any) -> None:
    """llms.txt, and the Markdown of each page beside it."""
    lines = [f"# {config.site_name}", "", f"> {config.site_description}", ""]
    for name, (title, text) in _llms.items():
        to = Path(config.site_dir, name)
        to.parent.mkdir(parents=True, exist_ok=True)
        to.write_text(text, encoding="utf-8")
        lines.append(f"- [{title}]({name})")
    Path(config.site_dir, "llms.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")


def from_root(name: str) -> str:
    text = (ROOT / name).read_text(encoding="utf-8")
    return text.replace("](docs/", "](")


def tables_of_comparisons() -> list[str]:
    """The tables of BENCHMARKS.md that have the name of a comparison's results."""
    page = (ROOT / "BENCHMARKS.md").read_text(encoding="utf-8")
    names = re.findall(r"<!-- /(\S+) -->", page)
    return [name for name in names if "arms" in content_of(name) and "seeds" in content_of(name)]


def content_of(name: str) -> dict[str, Any]:
    file = RESULTS / f"{name}.json"
    return json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}


def frontiers(path: Path) -> dict[str, bytes]:
    """A comparison's accuracy over its cost, for light and dark pages, by the ends of names."""
    from frugalkd.experiments.report import collect
    from frugalkd.experiments.report.paper import plot

    found = collect(path)
    with tempfile.TemporaryDirectory() as folder:
        drawn = {ending: Path(folder, ending) for ending in ("light.svg", "dark.svg")}
        for ending, file in drawn.items():
            plot(found, file, figure="frontier", dark=ending == "dark.svg")
        return {f"-{ending}": file.read_bytes() for ending, file in drawn.items()}


def figure(name: str) -> str:
    """Of a table. The theme shows the one for its colours."""
    alt = "Results of this table's arms over what they cost"
    return "".join(f"![{alt}](figures/{name}-{of}.svg#only-{of})" for of in ("light", "dark"))


def gate_figure() -> str:
    """The fractions of the samples that a gate used, by epoch, as squares."""
    arms = content_of("fair-fashion-mnist")["arms"]
    trained = next(arm for arm in arms if arm["arm"] == "ceiling-early@0.25")["history"]["trained"]
    panels = []
    for epoch in (1, 2, 3, 5, len(trained)):
        used = round(100 * trained[epoch - 1])
        squares = "".join(
            f'<rect x="{11 * (k % 10)}" y="{11 * (k // 10)}" width="9" height="9" '
            f'fill="currentColor" fill-opacity="{1 if k < used else 0.15}"/>'
            for k in range(100)
        )
        drawn = f'<svg viewBox="0 0 108 108" aria-hidden="true">{squares}</svg>'
        said = f"<figcaption>epoch {epoch}: {used}&nbsp;%</figcaption>"
        panels.append(f"<figure>{drawn}{said}</figure>")
    return f'<div class="gate">{"".join(panels)}</div>'


def report(path: Path) -> str:
    from frugalkd.experiments.report import collect, make_page
    from frugalkd.runtime.imports import Allowed

    return make_page(collect(path), Allowed())


def signatures() -> str:
    """All names of ``import frugalkd``, from their docstrings."""
    from frugalkd import _HOMES, __all__

    text = "# Signatures\n\nOf all that `import frugalkd` offers.\n"
    return text + "".join(f"\n::: frugalkd.{_HOMES[name]}.{name}\n" for name in sorted(__all__))


def commands() -> str:
    """The help of all commands."""
    from typer.cli import get_docs_for_click
    from typer.main import get_command

    from frugalkd.cli import app

    command = get_command(app)
    context: Any = command.context_class(command, info_name="frugalkd", **command.context_settings)
    text = get_docs_for_click(obj=command, ctx=context, name="frugalkd")
    text = re.sub(r"\[/?(?:bold|cyan)\]", "", text).replace("# `frugalkd`", "# Command line", 1)
    text = re.sub(r"<span[^>]*bold[^>]*>(Examples?)</span>\n((?:.+\n)+)", _example, text)
    text = re.sub(r"<span[^>]*>(.*?)</span>", r"`\1`", text)
    return re.sub(r"`[^`\n]*`", lambda code: unescape(code[0]), text)


def _example(found: re.Match[str]) -> str:
    return f"{found[1]}:\n\n```console\n{unescape(re.sub('(?m)^', '$ ', found[2].rstrip()))}\n```\n"


def recipes() -> str:
    """The recipes that come with frugalkd."""
    from frugalkd.experiments.recipes.load import load_yaml, recipe_names, recipe_text

    said = "`frugalkd recipes show NAME` prints one; `frugalkd schema recipe` describes all fields."
    parts = [f"# Recipes\n\n{said}"]
    for name in recipe_names():
        text = recipe_text(name)
        summary = load_yaml(text, name).get("summary", "")
        parts.append(f"## {name}\n\n{summary}\n\n```yaml\n{text}```")
    return "\n\n".join(parts) + "\n"
