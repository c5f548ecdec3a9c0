# Copyright (c) KAPAO-MM authors. Licensed under Apache-2.0.
import os
import subprocess
import sys

import pytest

pytest.importorskip('mkdocs')

OFFLINE = dict.fromkeys(['HTTP_PROXY', 'HTTPS_PROXY'], 'http://127.0.0.1:9')


@pytest.fixture(scope='module')
def built(repo, tmp_path_factory):
    """The site, and what its build printed."""
    site = tmp_path_factory.mktemp('site')
    done = subprocess.run(
        [sys.executable, '-m', 'mkdocs', 'build', '--strict', '--site-dir', site],
        cwd=repo,
        env={**os.environ, **OFFLINE, 'NO_MKDOCS_2_WARNING': '1'},
        capture_output=True,
        text=True,
    )
    return site, done


@pytest.mark.slow
def test_the_site_is_built_without_warnings_and_network(built):
    _, done = built
    assert done.returncode == 0, done.stderr
    assert 'WARNING' not in done.stderr


@pytest.mark.slow
def test_pages_have_formulas_and_the_readme_is_the_first_one(built):
    site, _ = built
    assert '<span class="arithmatex">\\(N_a\\)</span>' in (site / 'method/index.html').read_text()
    home = (site / 'index.html').read_text()
    assert 'src="images/method.jpg"' in home
    assert 'href="training/"' in home


@pytest.mark.slow
def test_examples_of_docstrings_are_code(built):
    site, _ = built
    pages = [page.read_text() for page in site.glob('reference/*/index.html')]
    assert any('&gt;&gt;&gt; ' in page for page in pages)
    assert not any('<p>&gt;&gt;&gt;' in page for page in pages)  # a section `Example` is prose
