"""What the docs share with the project: the app's own explanations, the glossary, pictures.

A line `<!-- glossary -->`, `<!-- how to read: FOLDER_OR_FILE … -->` or `<!-- file: PATH -->` in a
page becomes that text when the site is built. Nothing of the project is imported but the glossary.
"""

from __future__ import annotations

import ast
import re
import sys
from pathlib import Path

from mkdocs.structure.files import File

ROOT = Path(__file__).resolve().parents[1]
LINE = re.compile(r"^<!-- (glossary|how to read|file)(?:: (.+))? -->$", re.MULTILINE)
NAMES = {
    "pages/overview.py": "Overview",
    "pages/layers.py": "Layers",
    "pages/experts.py": "Experts",
    "pages/clustering.py": "Clustering",
    "pages/vocabulary": "Vocabulary",
    "pages/live/session": "Inspect, Generate and what all modes share",
    "pages/live/one_trace": "Inspect",
    "pages/live/circuit": "Circuit of a choice",
    "pages/live/compare": "Compare",
    "pages/live/what_if": "What if",
    "pages/live/many": "Many prompts",
}


def on_files(files, config):
    """Adds the pictures of `examples` and the app's icon as `images/`."""
    for picture in [*sorted(ROOT.glob("examples/*.png")), ROOT / "pages" / "shell" / "icon.svg"]:
        files.append(File.generated(config, f"images/{picture.name}", abs_src_path=str(picture)))
    return files


def on_page_markdown(markdown: str, page, config, files) -> str:
    """Puts the named texts in the place of their lines."""
    return spaced(LINE.sub(lambda found: shared(found[1], found[2] or ""), markdown))


def shared(kind: str, where: str) -> str:
    """The text that a line stands for."""
    if kind == "glossary":
        return glossary()
    if kind == "file":
        return outside(where)
    return "\n\n".join(how_to_read(place) for place in where.split())


def glossary() -> str:
    """All terms of the app's glossary, in its order."""
    sys.path.insert(0, str(ROOT))
    try:
        from lens.glossary import TERMS
    finally:
        sys.path.remove(str(ROOT))
    return "\n\n".join(f"**{term}**\n:   {meaning}" for term, meaning in TERMS.items())


def outside(path: str) -> str:
    """A file of the project without its title; its links to files of the project become names."""
    text = (ROOT / path).read_text(encoding="utf-8").split("\n", 1)[1]
    return re.sub(r"\[([^\]]+)\]\((?!https?:|#)[^)]+\)", r"\1", text)


def how_to_read(place: str) -> str:
    """The explanations under "How to read" of a page of the app, as a section.

    Raises:
        ValueError: nothing in that place has a `HOW_TO_READ`.
    """
    where = ROOT / place
    sources = [where] if where.is_file() else sorted(where.rglob("*.py"))
    texts = [text for source in sources for text in explanations(source)]
    if not texts:
        raise ValueError(f"{place}: no HOW_TO_READ is written there, which the docs show")
    return f"### {NAMES.get(place, place)}\n\n" + "\n\n".join(texts)


def explanations(source: Path) -> list[str]:
    """The literal texts assigned to `HOW_TO_READ` in a file."""
    found = []
    for node in ast.parse(source.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "HOW_TO_READ":
            texts = [n.value for n in ast.walk(node.value) if isinstance(n, ast.Constant)]
            # What a page fills in when it is shown is left out here.
            found.append(re.sub(r"\{\w+\}", "", "".join(map(str, texts))).strip())
    return found


def spaced(markdown: str) -> str:
    """A blank line before each list: GitHub and the app need none, this Markdown does."""
    lines, inside = [], False
    for line in markdown.split("\n"):
        if line.startswith("```"):
            inside = not inside
        item = re.match(r"[-*] |\d+\. ", line)
        before = lines[-1] if lines else ""
        if item and not inside and before and not re.match(r"[-*] |\d+\. |\s", before):
            lines.append("")
        lines.append(line)
    return "\n".join(lines)
