# Copyright (c) KAPAO-MM authors. Licensed under Apache-2.0.
"""Adds to the site what is not in docs/, so that each text exists once.

These are the README and the other pages of the repository's root, and the API reference: a page
for each part of the package. Links are written for the repository; those to its files become links
to pages of the site.
"""

import os
import re
from functools import partial
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).resolve().parents[1]
PAGES = {  # file of the repository: page of the site
    'README.md': 'index.md',
    'CONTRIBUTING.md': 'contributing.md',
    'CHANGELOG.md': 'changelog.md',
}
LINK = re.compile(r'(!?\[(?:[^][]|\[[^][]*\])*\])\(([^)\s]+)\)')
ROLE = re.compile(r':(?:attr|class|data|func|meth|mod):(?=<code>)')  # Sphinx's, before code


def on_config(config: MkDocsConfig) -> None:
    """Adds the API reference to the navigation."""
    config.nav.append({'API reference': list(reference_pages())})


def on_files(files: Files, config: MkDocsConfig) -> None:
    """Adds the pages of the repository's root and of the API reference."""
    root_pages = {page: (ROOT / name).read_text() for name, page in PAGES.items()}
    for page, content in (root_pages | reference_pages()).items():
        files.append(File.generated(config, page, content=content))


def on_page_markdown(markdown: str, page: Page, **_: object) -> str:
    """Turns links to files of the repository into links to pages of the site."""
    return LINK.sub(partial(site_link, page.file.src_uri), markdown)


def on_page_content(html: str, **_: object) -> str:
    """Removes Sphinx's roles from the docstrings."""
    return ROLE.sub('', html)


def reference_pages() -> dict[str, str]:
    """Returns the content of the API reference by page, for mkdocstrings to fill."""
    pages = {}
    for file in sorted((ROOT / 'kapao_mm').rglob('*.py')):
        module = module_name(file)
        page = reference_page(module)
        pages.setdefault(page, f'# {Path(page).stem}\n')
        pages[page] += f'\n::: {module}\n'
        if file.name == '__init__.py' and module != 'kapao_mm':  # its members are those of modules
            pages[page] += '    options:\n      members: false\n'
    return pages


def reference_page(module: str) -> str:
    """Returns the page of a module: that of its sub-package, or that of the package."""
    name = module.split('.')[1:2]
    folder = [part for part in name if (ROOT / 'kapao_mm' / part).is_dir()]
    return f'reference/{folder[0] if folder else "kapao_mm"}.md'


def module_name(file: Path) -> str:
    """Returns the full name of the module in a file."""
    return '.'.join(file.relative_to(ROOT).with_suffix('').parts).removesuffix('.__init__')


def site_link(page: str, link: re.Match) -> str:
    """Returns a link of a page as the site needs it.

    A link to a file that is not part of the site becomes plain text. A link to a missing file stays
    as it is: MkDocs warns about it.

    Args:
        page: Page of the site that has the link.
        link: Match of :data:`LINK`.
    """
    text, target = link.groups()
    path, _, anchor = target.partition('#')
    folder = ROOT if page in PAGES.values() else ROOT / 'docs'
    file = (folder / path).resolve()
    if not path or '://' in path or not file.exists():
        return link[0]
    name = file.relative_to(ROOT)
    if str(name) in PAGES:
        name = Path(PAGES[str(name)])
    elif name.parts[0] == 'docs':
        name = name.relative_to('docs')
    elif name.suffix == '.py' and name.parts[0] == 'kapao_mm':
        anchor = module_name(file)
        name = Path(reference_page(anchor))
    else:
        return text[1:-1]
    target = os.path.relpath(name, Path(page).parent)
    return f'{text}({target}#{anchor})' if anchor else f'{text}({target})'
