# Copyright (c) KAPAO-MM authors. Licensed under Apache-2.0.
import json
from dataclasses import replace

import cv2
import numpy as np
import pytest

from kapao_mm.errors import InputError


def test_the_length_and_an_index_are_those_of_the_poses(make_result):
    result = make_result()
    assert len(result) == 2
    assert [one.labels.tolist() for one in result] == [[1], [0]]
    assert len(result[result.scores > 0.7]) == 1
    np.testing.assert_array_equal(result[1].keypoints[0, 0], [25, 35])
    np.testing.assert_array_equal(result.boxes, result.prediction.bboxes)
    assert repr(result) == 'Result(x/a.png: 2 poses, 1 keypoint objects, 1 fused)'
    assert 'a.mp4, frame 7: 2 poses' in repr(replace(result, name='a.mp4', frame=7))


def test_the_picture_is_drawn_on_a_copy(make_result):
    result = make_result()
    picture = result.plot()
    assert picture.shape == result.image.shape
    assert (picture != 90).any() and (result.image == 90).all()


def test_a_picture_is_saved_under_the_name_of_the_image_or_a_given_one(make_result, tmp_path):
    result = make_result()
    assert result.save(tmp_path / 'out') == tmp_path / 'out/a.jpg'
    assert result.save(tmp_path / 'b.png') == tmp_path / 'b.png'
    np.testing.assert_array_equal(cv2.imread(str(tmp_path / 'b.png')), result.plot())
    assert replace(result, frame=7).save(tmp_path) == tmp_path / 'a_000007.jpg'


def test_the_image_itself_is_not_overwritten(make_result, tmp_path):
    path = tmp_path / 'a.jpg'
    cv2.imwrite(str(path), make_result().image)
    before = path.read_bytes()
    with pytest.raises(InputError, match='is the image itself'):
        make_result(name=str(path)).save(tmp_path)
    assert path.read_bytes() == before


def test_json_has_the_place_in_the_video(make_result):
    content = json.loads(make_result(frame=3, time=0.1).to_json())
    assert (content['version'], content['image'], content['frame'], content['time']) == (
        *(1, 'x/a.png', 3),
        0.1,
    )
    assert 'frame' not in make_result().to_dict()


def test_coco_records_have_the_keypoints_of_their_category(make_result):
    car, cat = make_result(name='data/000000000139.jpg').to_coco()
    assert (car['image_id'], car['category_id'], cat['category_id']) == (139, 2, 1)
    assert car['bbox'] == [10, 10, 40, 30]
    np.testing.assert_allclose(car['keypoints'], [30, 20, 0.9], rtol=1e-6)  # the pose's score
    np.testing.assert_allclose(cat['keypoints'], [25, 35, 0.8, 55, 70, 0.6], rtol=1e-6)
    assert make_result().to_coco()[0]['image_id'] == 'a'
    assert make_result().to_coco(image_id=5)[0]['image_id'] == 5
    json.dumps([car, cat])


def test_track_ids_are_in_every_output(make_result):
    result = make_result()
    tracked = replace(result.prediction, track_ids=np.array([4, 2]))
    result = replace(result, prediction=tracked)
    assert [record['track_id'] for record in result.to_coco()] == [4, 2]
    assert [pose['track_id'] for pose in result.to_dict()['poses']] == [4, 2]
    assert [row['track_id'] for row in result.to_rows()] == [4, 2]
    assert result[1].track_ids.tolist() == [2]


def test_rows_have_every_column_and_none_where_a_keypoint_is_of_another_category(make_result):
    car, cat = make_result(frame=1, time=0.5).to_rows()
    assert list(car) == list(cat) == make_result().columns
    assert (car['category'], car['x1'], car['hood_x'], car['nose_x']) == ('car', 10, 30, None)
    assert (cat['nose_x'], cat['nose_y'], cat['hood_x']) == (25, 35, None)
    assert cat['nose_score'] == pytest.approx(0.8) and cat['tail_score'] == 0
    assert (cat['image'], cat['frame'], cat['time']) == ('x/a.png', 1, 0.5)


def test_a_table_of_pandas_has_a_row_for_each_pose(make_result):
    pytest.importorskip('pandas', reason='the package pandas is optional')
    table = make_result().to_pandas()
    assert table['category'].tolist() == ['car', 'cat']
    assert make_result()[:0].to_pandas().columns.tolist() == make_result().columns
