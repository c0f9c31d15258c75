"""Puts the files of the repository that pages link to into the documentation site.

A link such as `../benchmarks/results.md` works where the repository is browsed. On the
site the file is at `repository/benchmarks/results.md`, and the link is made to point
there.
"""

import pathlib
import posixpath
import re

from mkdocs.structure.files import File

ROOT = pathlib.Path(__file__).resolve().parents[1]
DOCS, COPIES = "docs", "repository"
LINK = re.compile(r"(?<=\]\()(?!\w+:|#|/)([^)#\s]+)")
FENCE = re.compile(r"^```.*?^```", re.MULTILINE | re.DOTALL)


def on_files(files, config):
    """Adds what the pages link to outside of docs/, and what that links to."""
    waiting = [page.src_uri for page in files.documentation_pages()]
    while waiting:
        page = waiting.pop()
        path = _in_repository(page)
        for target in LINK.findall(FENCE.sub("", (ROOT / path).read_text())):
            target = posixpath.normpath(posixpath.join(posixpath.dirname(path), target))
            site = _on_site(target)
            if site.startswith(COPIES) and site not in files.src_uris:
                source = ROOT / target
                if source.is_file():  # MkDocs reports a link to what is missing
                    copy = File.generated(config, site, abs_src_path=str(source))
                    files.append(copy)
                    waiting += [site] if copy.is_documentation_page() else []
    return files


def on_page_markdown(markdown, page, config, files):
    """Points links of a page to where their targets are on the site."""
    here, path = page.file.src_uri, _in_repository(page.file.src_uri)

    def moved(link):
        target = posixpath.normpath(posixpath.join(posixpath.dirname(path), link[0]))
        return posixpath.relpath(_on_site(target), posixpath.dirname(here) or ".")

    parts, end = [], 0
    for fence in FENCE.finditer(markdown):
        parts += [LINK.sub(moved, markdown[end : fence.start()]), fence[0]]
        end = fence.end()
    return "".join([*parts, LINK.sub(moved, markdown[end:])])


def _in_repository(site):
    """The path in the repository of a file of the site."""
    copies, slash, path = site.partition("/")
    return path if copies == COPIES and slash else f"{DOCS}/{site}"


def _on_site(path):
    """The path on the site of a file of the repository."""
    folder, slash, rest = path.partition("/")
    return rest if folder == DOCS and slash else f"{COPIES}/{path}"
