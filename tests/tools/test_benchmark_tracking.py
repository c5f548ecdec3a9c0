# Copyright (c) KAPAO-MM authors. Licensed under Apache-2.0.
import json

import cv2
import numpy as np
import pytest

TOOL = 'analysis_tools/benchmark.py'
pytest.importorskip('trackers')


@pytest.mark.slow
def test_tables_show_how_well_and_how_fast_people_are_tracked(
    run_tool, read_tables, capsys, tmp_path
):
    cv2.imwrite(str(tmp_path / 'a.png'), np.zeros((120, 160, 3), np.uint8))
    people = [
        dict(
            image_id=1,
            iscrowd=0,
            num_keypoints=17,
            bbox=[20 + 30 * i, 30, 20, 60],
            keypoints=[30 + 30 * i, 50, 2] * 17,
        )
        for i in range(4)
    ]
    images = [dict(id=1, file_name='a.png', width=160, height=120)]
    labels = tmp_path / 'labels.json'
    labels.write_text(json.dumps(dict(images=images, annotations=people)))
    out = tmp_path / 'figures.json'
    small = ('--videos', 1, '--frames', 4, '--photos', labels, tmp_path, '--out', out)
    assert run_tool(TOOL, 'tracking', *small) is None
    quality, speed = read_tables(capsys.readouterr().out)
    names = ['toy easy, labels', 'toy crowd, labels', 'photos, labels']
    assert [row['videos'] for row in quality] == names
    assert [row['people'] for row in speed] == ['1', '1', '10', '10', '60', '60']
    assert list(json.loads(out.read_text())['quality']) == names


def test_photos_without_groups_of_people_are_refused(run_tool, tmp_path):
    labels = tmp_path / 'labels.json'
    labels.write_text(json.dumps(dict(images=[], annotations=[])))
    message = run_tool(TOOL, 'tracking', '--photos', labels, tmp_path)
    assert message.endswith('has no photo with 4 people with keypoints')
