# Copyright (c) KAPAO-MM authors. Licensed under Apache-2.0.
import pytest

TOOL = 'analysis_tools/get_flops.py'
CONFIG = 'configs/kapao/kapao_n_coco.py'


@pytest.mark.slow
def test_the_table_has_a_row_for_each_part_and_the_total(run_tool, read_tables, capsys):
    assert run_tool(TOOL, CONFIG, '--input-size', '64x128') is None
    printed = capsys.readouterr().out
    assert printed.startswith(f'{CONFIG}: one image of 64 x 128 px\n')
    (table,) = read_tables(printed)
    assert [row[''] for row in table] == ['backbone', 'neck', 'head', 'total']
    once, twice = (float(table[-1][key]) for key in ('G multiply-adds', 'GFLOPs (two each)'))
    assert twice == pytest.approx(2 * once, abs=2e-3) and once > 0


@pytest.mark.slow
def test_the_input_size_is_that_of_the_config_or_of_multiples_of_64(run_tool, capsys):
    assert run_tool(TOOL, 'configs/kapao/kapao_n_overfit.py') is None
    assert 'one image of 384 x 384 px' in capsys.readouterr().out
    assert run_tool(TOOL, CONFIG, '--input-size', '100') == 2
    assert '100: give multiples of 64 px' in capsys.readouterr().err
