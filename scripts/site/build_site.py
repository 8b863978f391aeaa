"""Builds the documentation site, and fails on whatever is wrong with it.

    python scripts/site/build_site.py build/site        # then: python -m http.server -d build/site/html

The pages are those of docs/ and a few beside it. What they link to elsewhere in the repository becomes a page that shows the
file; the commands' options are asked of the commands. Wrong are: a warning of the builder, a page that the navigation does not
lead to, a link to nothing, anything that a page would load from another host.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Callable, Iterator, Sequence
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from switchml.cli import COMMANDS, load

ROOT = Path(__file__).parents[2]
HERE = Path(__file__).parent
BESIDE = {
    "README.md": "index.md",
    "CONTRIBUTING.md": "contributing.md",
    "CHANGELOG.md": "changelog.md",
    "p4/README.md": "p4-programs.md",
    "scripts/cluster/README.md": "cluster.md",
}
"""Pages that do not lie in docs/, and what they are called on the site."""

_CODE = re.compile(r"(^```.*?^```\s*?$|(?:^ {4}[^\n]*\n)+)", re.M | re.S)
_INLINE_SVG = re.compile(r"^!\[[^\]]*\]\((pictures/[\w.]+\.svg)\)$", re.M)
_LINK = re.compile(r"(?<!!)\[([^\]]+)\]\((?!\w+:)([^)#\s]*)(#[^)]*)?\)")
_NAMED = re.compile(r"(?<!\[)`(docs/[\w-]+\.md|CONTRIBUTING\.md|CHANGELOG\.md)`")
_NEEDS = re.compile(r"^<!-- needs: (.+?) -->$", re.M)
LANGUAGES = {
    ".py": "python",
    ".json": "json",
    ".p4": "c",
    ".sh": "bash",
    ".yaml": "yaml",
    ".toml": "toml",
    ".lua": "lua",
}


def sources() -> dict[str, str]:
    """What the site is made of: file of the repository -> page."""
    return {f"docs/{path.name}": path.name for path in sorted((ROOT / "docs").glob("*.md"))} | BESIDE


def title(source: str) -> str:
    """What a page calls itself: so it is named on the site, where its file's name says less."""
    return (ROOT / source).read_text().partition("\n")[0].removeprefix("# ").replace("`", "")


class Pages:
    """The pages, with links that hold on the site.

    Attributes:
        text: Markdown by page.
        shown: pages made of files of the repository that others link to.
    """

    def __init__(self) -> None:
        self._names = sources()
        self.shown: dict[str, str] = {}
        self.text = {page: self._page(Path(source)) for source, page in self._names.items()}
        self.text["commands.md"] = commands()
        self.text |= self.shown

    def _page(self, source: Path) -> str:
        text = (ROOT / source).read_text()
        # What is code stays as it is.
        parts = _CODE.split(text)
        parts[::2] = [self._prose(part, source) for part in parts[::2]]
        return "".join(parts)

    def _prose(self, text: str, source: Path) -> str:
        def linked(link: re.Match[str]) -> str:
            words, target, place = link.groups()
            page = self._target(source.parent, target) if target else ""
            said = title(os.path.normpath(source.parent / target)) if words.endswith(".md") else words
            return f"[{said}]({page}{place or ''})"

        def named(name: re.Match[str]) -> str:
            return f"[{title(name[1])}]({self._names[name[1]]})"

        def inlined(picture: re.Match[str]) -> str:
            return f"<figure>\n{(ROOT / source.parent / picture[1]).read_text()}</figure>"

        text = _LINK.sub(linked, text)
        if source.parent == Path():
            text = _NAMED.sub(named, text)
        text = _NEEDS.sub(r'<p class="needs">Needs \1.</p>', text)
        return _INLINE_SVG.sub(inlined, text)

    def _target(self, folder: Path, target: str) -> str:
        path = os.path.normpath(folder / target)
        if path in self._names:
            return self._names[path]
        file = ROOT / path
        if file.suffix in (".png", ".svg") and file.parent == ROOT / "docs":
            return target
        if not file.exists():
            raise SystemExit(f"{folder / target}: linked, and not there")
        page = f"source/{path}.md"
        self.shown[page] = shown(path)
        return page


def shown(path: str) -> str:
    """A page with a file, or with all those of a folder."""
    file = ROOT / path
    files = [file] if file.is_file() else sorted(each for each in file.iterdir() if each.is_file())
    parts = [f"# {path}\n"]
    for each in files:
        if len(files) > 1:
            parts.append(f"## {each.name}\n")
        parts.append(f"````{LANGUAGES.get(each.suffix, 'text')}\n{each.read_text()}````\n")
    return "\n".join(parts)


def commands() -> str:
    """The page of all commands and their options."""
    return "\n".join(
        ["# Commands\n", *(part for name in COMMANDS for part in _command(load(name), f"switchml {name}", 2))]
    )


def _command(command: Any, called: str, level: int) -> Iterator[str]:
    yield f"{'#' * level} {called}\n"
    yield _plain(command.help or "") + "\n"
    options = [each for each in command.params if each.opts[0].startswith("-") and each.name != "help"]
    arguments = [
        each.name.upper() + ("..." if each.nargs < 0 else "")
        for each in command.params
        if each not in options
    ]
    inner = getattr(command, "commands", {})
    words = [called, *(["OPTIONS"] if options else []), *(["COMMAND"] if inner else []), *arguments]
    yield f"```text\n{' '.join(words)}\n```\n"
    if options:
        yield "| option | meaning | default |\n| --- | --- | --- |"
        for each in options:
            names = ", ".join(f"`{option}`" for option in (*each.opts, *each.secondary_opts))
            variable = f" (`{each.envvar}`)" if each.envvar else ""
            default = (
                "" if each.default in (None, "", False, ()) or callable(each.default) else f"`{each.default}`"
            )
            yield f"| {names} | {_plain(each.help or '')}{variable} | {default} |"
        yield ""
    for name, each in inner.items():
        yield from _command(each, f"{called} {name}", level + 1)


def _plain(text: str) -> str:
    return text.replace("\b", "").replace("|", "\\|").replace("<", "&lt;").replace("[", "\\[").strip()


def stage(out: Path) -> Pages:
    """Write pages, pictures and the builder's configuration into `out`."""
    shutil.rmtree(out, ignore_errors=True)
    pages = Pages()
    for page, text in pages.text.items():
        (out / "pages" / page).parent.mkdir(parents=True, exist_ok=True)
        (out / "pages" / page).write_text(text)
    for picture in (ROOT / "docs").glob("*.png"):
        shutil.copy(picture, out / "pages")
    shutil.copy(HERE / "site.css", out / "pages")
    settings = (HERE / "zensical.toml").read_text()
    (out / "zensical.toml").write_text(settings.replace('"ROOT"', f'"{ROOT}"'))
    return pages


def in_navigation(out: Path) -> set[str]:
    """Every page that the navigation names."""

    def named(entry: Any) -> Iterator[str]:
        if isinstance(entry, str):
            yield entry
        else:
            for each in entry.values() if isinstance(entry, dict) else entry:
                yield from named(each)

    return set(named(tomllib.loads((out / "zensical.toml").read_text())["project"]["nav"]))


class _Page(HTMLParser):
    """What a page links to, loads, and can be linked at."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.links: list[str] = []
        self.loads: list[str] = []
        self.places: set[str] = set()
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        for name, value in attrs:
            if not value:
                continue
            if name == "id" or (name == "name" and tag == "a"):
                self.places.add(value)
            elif name == "href" and tag == "a":
                self.links.append(value)
            elif name in ("src", "srcset", "poster", "data") or (name == "href" and tag == "link"):
                self.loads.append(value)


def wrong_links(html: Path) -> Iterator[str]:
    """Links of the built pages that lead to nothing, and what they load from elsewhere."""
    pages = {path: _Page(path.read_text()) for path in html.rglob("*.html")}
    for path, page in pages.items():
        here = path.relative_to(html)
        yield from (f"{here}: loads {each}" for each in page.loads if urlsplit(each).netloc)
        for link in page.links:
            parts = urlsplit(link)
            if parts.scheme or parts.netloc or path.name == "404.html":
                continue
            target = path if not parts.path else Path(os.path.normpath(path.parent / unquote(parts.path)))
            target = target / "index.html" if target.is_dir() else target
            if not target.is_file():
                yield f"{here}: links to {link}, which is not there"
            elif (
                parts.fragment
                and target in pages
                and unquote(parts.fragment) not in {*pages[target].places, "__skip"}
            ):
                yield f"{here}: links to {link}, and there is no such place"
    for style in html.rglob("*.css"):
        yield from (
            f"{style.name}: loads {url}"
            for url in re.findall(r"url\([\"']?(https?:[^)\"']+)", style.read_text())
        )


def build(out: Path, say: Callable[[str], object] = print) -> list[str]:
    """Build the site in `out`, and say what is wrong with it: a line each; none = all is well."""
    pages = stage(out)
    program = [
        sys.executable,
        "-m",
        "zensical",
        "build",
        "--strict",
        "--clean",
        "--config-file",
        str(out / "zensical.toml"),
    ]
    done = subprocess.run(
        program, capture_output=True, text=True, cwd=out, env={**os.environ, "NO_COLOR": "1"}
    )
    told = re.sub(r"\x1b\[[\d;]*m", "", done.stdout + done.stderr)
    say(told.rstrip())
    # Those of mkdocstrings do not count for the builder.
    wrong = re.findall(r"^.*(?:warning|error|could not|failed).*$", told, re.M | re.I)
    if done.returncode and not wrong:
        wrong.append(f"the builder ended with {done.returncode}")
    wrong += [
        f"{page}: not in the navigation"
        for page in pages.text
        if page not in in_navigation(out) | set(pages.shown)
    ]
    if not wrong:
        wrong += sorted(set(wrong_links(out / "html")))
    return wrong


def main(arguments: Sequence[str]) -> int:
    """Build into the folder that is named; 1 if anything is wrong."""
    wrong = build(Path(arguments[0]))
    for line in wrong:
        print(f"wrong: {line}", file=sys.stderr)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
