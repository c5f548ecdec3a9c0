# Copyright (c) KAPAO-MM authors. Licensed under Apache-2.0.
from matplotlib.figure import Figure

from kapao_mm.analysis.report import print_table, write_report


def test_a_table_is_markdown_of_any_width_and_prints_texts_as_they_are(capsys):
    name = 'a [bold] :smile: ' + 'x' * 200
    print_table(['name', 'value'], [[name, '1'], ['b', '22']])
    printed = capsys.readouterr().out
    lines = [line for line in printed.splitlines() if line.strip()]
    assert printed.endswith('\n')
    assert lines == [
        f'| {"name":<{len(name)}} | value |',
        f'|{"-" * (len(name) + 2)}|-------|',
        f'| {name} |     1 |',
        f'| {"b":<{len(name)}} |    22 |',
    ]


def test_a_report_is_written_as_json_with_its_plot_into_a_new_folder(tmp_path, capsys):
    path = tmp_path / 'a/b.json'
    write_report(dict(rows=[1.5]), path, Figure())
    assert path.read_text() == '{\n  "rows": [\n    1.5\n  ]\n}\n'
    assert path.with_suffix('.png').read_bytes()[1:4] == b'PNG'
    assert capsys.readouterr().out == f'\nfigures: {path}\nplot: {tmp_path}/a/b.png\n'
