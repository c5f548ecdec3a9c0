# Copyright (c) KAPAO-MM authors. Licensed under Apache-2.0.
import json
from collections import defaultdict

import cv2
import numpy as np
import pytest

TOOL = 'dataset_converters/label_studio_to_coco.py'
SIZE = dict(original_width=200, original_height=100)


def rectangle(id, x=10, y=10, width=20, height=40, label='person', **more):
    value = dict(x=x, y=y, width=width, height=height, rotation=0, rectanglelabels=[label])
    region = dict(id=id, type='rectanglelabels', from_name='bbox', to_name='image', **SIZE)
    return region | dict(image_rotation=0, value=value) | more


def keypoint(name, x, y, **more):
    value = dict(x=x, y=y, width=0.5, keypointlabels=[name])
    region = dict(id=f'{name}{x}', type='keypointlabels', from_name='k', to_name='image', **SIZE)
    return region | dict(image_rotation=0, value=value) | more


def task(*regions, id=1, image='/data/upload/2/0123abcd-a.jpg', **annotation):
    annotation = dict(id=id, was_cancelled=False, result=list(regions)) | annotation
    return dict(id=id, data=dict(image=image), annotations=[annotation], predictions=[])


def minimal(full):
    """Writes a task as the export "JSON-MIN" does: without ids and parents of regions."""
    (annotation,) = full['annotations']
    item = full['data'] | dict(id=full['id'], annotator=1, annotation_id=1, updated_at='2026')
    for region in annotation['result']:
        sizes = {key: region[key] for key in SIZE}
        item.setdefault(region['from_name'], []).append(region['value'] | sizes)
    return item


@pytest.fixture
def convert(run_tool, tmp_path):
    """Makes a function that converts an export; returns the COCO file or the error message."""

    def run(content, *args):
        path, out = tmp_path / 'export.json', tmp_path / 'out/coco.json'
        path.write_text(json.dumps(content))
        return run_tool(TOOL, path, out, *args) or json.loads(out.read_text())

    return run


FULL = task(
    rectangle('A'), rectangle('B', x=20), keypoint('nose', 15, 20), keypoint('nose', 25, 20)
)


@pytest.mark.parametrize('form', [lambda full: full, minimal], ids=['JSON', 'JSON-MIN'])
def test_percentages_become_pixels(convert, form):
    found = convert([form(FULL)])
    image = dict(id=1, file_name='0123abcd-a.jpg', width=200, height=100)
    assert found['images'] == [image]
    assert [a['bbox'] for a in found['annotations']] == [[20, 10, 40, 40], [40, 10, 40, 40]]
    assert [a['keypoints'] for a in found['annotations']] == [[30, 20, 2], [50, 20, 2]]
    assert found['categories'] == [dict(id=1, name='person', keypoints=['nose'], skeleton=[])]


def test_parent_decides_where_rectangles_overlap(convert, capsys):
    full = task(rectangle('A'), rectangle('B', x=20), keypoint('nose', 25, 20, parentID='B'))
    found = convert([full])
    assert [a['num_keypoints'] for a in found['annotations']] == [0, 1]
    found = convert([minimal(full)])
    assert [a['num_keypoints'] for a in found['annotations']] == [0, 0]
    assert '1 keypoints that may belong to several boxes (left out)' in capsys.readouterr().out


@pytest.mark.parametrize('turned', [False, True])
def test_relation_decides_as_a_parent_does(convert, turned):
    ends = ('from_id', 'to_id')[:: -1 if turned else 1]
    relation = dict(zip(ends, ('B', 'nose25'), strict=True), type='relation', direction='right')
    regions = rectangle('A'), rectangle('B', x=20), keypoint('nose', 25, 20), relation
    found = convert([task(*regions)])
    assert [a['num_keypoints'] for a in found['annotations']] == [0, 1]


def test_people_of_coco_survive_the_way_through_label_studio(shared_dir, convert):
    folder = shared_dir / 'data/coco_subset'
    content = json.loads((folder / 'annotations/person_keypoints_val.json').read_text())
    (category,) = content['categories']
    by_image = defaultdict(list)
    for a in content['annotations']:
        if not a['iscrowd']:
            by_image[a['image_id']].append(a)
    tasks, expected = [], []
    for image in content['images'][:12]:
        width, height = image['width'], image['height']
        sizes, regions = dict(original_width=width, original_height=height), []
        for a in by_image[image['id']]:
            x, y, w, h = a['bbox']
            sides = x / width * 100, y / height * 100, w / width * 100, h / height * 100
            regions.append(rectangle(str(a['id']), *sides) | sizes)
            expected.append(a)
            for name, (px, py, v) in zip(
                category['keypoints'], np.reshape(a['keypoints'], (-1, 3)).tolist(), strict=True
            ):
                if v:
                    at = px / width * 100, py / height * 100
                    regions.append(keypoint(name, *at, parentID=str(a['id'])) | sizes)
        tasks.append(task(*regions, id=image['id'], image=f'/data/{image["file_name"]}'))
    found = convert(tasks, '--images', folder / 'val2017')
    order = [found['categories'][0]['keypoints'].index(name) for name in category['keypoints']]
    for a, b in zip(found['annotations'], expected, strict=True):
        np.testing.assert_allclose(a['bbox'], b['bbox'], atol=1e-9)
        ours, theirs = (np.reshape(c['keypoints'], (-1, 3)) for c in (a, b))
        np.testing.assert_array_equal(ours[order, 2] > 0, theirs[:, 2] > 0)
        np.testing.assert_allclose(ours[order, :2], theirs[:, :2], atol=1e-9)


def test_coco_export_of_label_studio_is_joined(shared_dir, run_tool, tmp_path, capsys):
    folder, out = shared_dir / 'data/exports/label_studio_export', tmp_path / 'coco.json'
    assert run_tool(TOOL, folder / 'result.json', out, '--images', folder) is None
    found, source = (json.loads(p.read_text()) for p in (out, folder / 'result.json'))
    assert [c['name'] for c in found['categories']] == ['person']
    assert len(found['categories'][0]['keypoints']) == 17
    boxes = [a for a in source['annotations'] if a['category_id'] == 9]
    assert [a['bbox'] for a in found['annotations']] == [a['bbox'] for a in boxes]
    # One person: all keypoints. Two that overlap: those of the left, the right, and of neither.
    assert [a['num_keypoints'] for a in found['annotations']] == [15, 15, 14, 7, 16, 1, 4, 0, 11]
    said = capsys.readouterr().out
    assert '6 keypoints that may belong to several boxes (left out)' in said
    assert '2 images whose boxes share one set of keypoints' in said
    assert '"COCO" has only one keypoint of each name in an image: export "JSON" instead' in said
    assert 'several boxes' in run_tool(TOOL, folder / 'result.json', out, '--strict')


def coco_export(*points, **more):
    people = [
        dict(id=i, image_id=0, category_id=0, bbox=[40 * i, 0, 60, 50], iscrowd=0, area=9.0)
        for i in range(2)
    ]
    default = dict(image_id=0, category_id=1, bbox=[0, 0, 9, 9], iscrowd=0)
    keypoints = [default | dict(id=2 + i) | p for i, p in enumerate(points)]
    return (
        dict(
            images=[dict(id=0, file_name='images/a.jpg', width=200, height=100)],
            categories=[
                dict(id=0, name='person'),
                dict(id=1, name='default', keypoints=['nose', 'eye'], skeleton=[]),
            ],
            annotations=people + keypoints,
        )
        | more
    )


@pytest.mark.parametrize('key', ['parentID', 'parent_id'])
def test_parent_in_the_coco_export_decides(convert, key):
    found = convert(coco_export({'keypoints': [50, 9, 2, 55, 9, 2], key: 1}))
    assert [a['num_keypoints'] for a in found['annotations']] == [0, 2]


def test_ids_of_the_result_start_at_one(convert):
    found = convert(coco_export(dict(keypoints=[10, 9, 2, 0, 0, 0])))
    assert [entry['id'] for entry in found['annotations']] == [1, 2]
    assert found['images'][0]['id'] == found['categories'][0]['id'] == 1


@pytest.mark.parametrize(
    ('content', 'message'),
    [
        (coco_export(dict(keypoints=[1, 2])), 'visibility of each keypoint of their category: 2'),
        (coco_export(dict(keypoints=3)), "annotations whose 'keypoints' are not x, y"),
        (coco_export(categories=[]), "'category_id' is none of the file's categories"),
        (
            coco_export(annotations=[], categories=[dict(id=1, name='a', keypoints=['b'])]),
            'is not a COCO export of Label Studio',
        ),
        ([], 'has no annotated images'),
        ([task(rectangle('A'), skipped=True)], 'has no annotated images'),
        ([3], 'is not an export of Label Studio, which is a list of tasks'),
        ([dict(id=4, data=3)], 'task 4 has no data or annotations'),
        ([dict(id=4, data={'image': 'a.jpg'})], 'task 4 has no data or annotations'),
        ([task(image='a'), task(image=3, id=2)], 'task 2: its image is not clear (keys: image)'),
        ([task(rectangle('A')), task(rectangle('A'), id=2)], 'task 2 has the same image as '),
        ([task(3)], 'result is not a list of regions'),
        ([task()], 'task 1 has no regions, so that its size is not known: set --images'),
        ([task(rectangle('A', x='3'))], 'region A: x, y, width, height are not all numbers'),
        ([task(keypoint('nose', float('nan'), 3))], 'x, y are not all numbers'),
        ([task(rectangle('A', label=3))], 'region A has [3], not one label'),
        ([task(rectangle('A', image_rotation=90))], 'the image was turned in Label Studio'),
        ([task(rectangle('A', original_width=0))], 'its original size is 0 x 100'),
        ([task(rectangle('A'), rectangle('B', original_width=9))], 'different original sizes'),
    ],
)
def test_unclear_export_is_refused_and_nothing_is_written(convert, tmp_path, content, message):
    found = convert(content)
    assert found.startswith('error: ')
    assert message in found
    assert not (tmp_path / 'out/coco.json').exists()


def test_order_of_labels_is_that_of_the_configuration(convert, tmp_path):
    config = tmp_path / 'config.xml'
    config.write_text(
        '<View><KeyPointLabels name="k" toName="image">'
        '<Label value="nose" model_index="1"/><Label value="eye" model_index="0"/>'
        '</KeyPointLabels><RectangleLabels name="b" toName="image"><Label value="person"/>'
        '</RectangleLabels></View>'
    )
    assert convert([FULL], '--config', config)['categories'][0]['keypoints'] == ['eye', 'nose']
    message = convert([task(rectangle('A', label='dog'))], '--config', config)
    assert message == f"error: {config} does not list the label 'dog' of the export"
    config.write_text('<View/>')
    assert 'has no KeyPointLabels' in convert([FULL], '--config', config)


@pytest.mark.parametrize(
    ('address', 'file', 'name'),
    [
        ('/data/upload/2/0123abcd-a.jpg', '0123abcd-a.jpg', '0123abcd-a.jpg'),
        ('/data/upload/2/0123abcd-a.jpg', 'a.jpg', 'a.jpg'),
        ('/data/local-files/?d=x/cats%20of%20mine/a.jpg', 'cats of mine/a.jpg', None),
        ('s3://bucket/images/a.jpg', 'a.jpg', 'a.jpg'),
        ('https://host/images/a.jpg?token=3', 'a.jpg', 'a.jpg'),
        ('images\\a.jpg', 'images/a.jpg', 'images/a.jpg'),
    ],
)
def test_image_is_found_by_its_name(convert, tmp_path, address, file, name):
    folder = tmp_path / 'images_of_mine'
    (folder / file).parent.mkdir(parents=True)
    cv2.imwrite(str(folder / file), np.zeros((60, 80, 3), np.uint8))
    (image,) = convert([task(image=address)], '--images', folder)['images']
    assert image == dict(id=1, file_name=name or file, width=80, height=60)
    message = convert([task(image='/data/b.jpg')], '--images', folder)
    assert message.endswith(f'task 1: image b.jpg is not in {folder}')


def test_key_of_the_image_can_be_given(convert):
    other = task(rectangle('A'))
    other['data'] = dict(photo='a.jpg', mask='b.png')
    assert 'its image is not clear (keys: photo, mask)' in convert([other])
    assert convert([other], '--image-key', 'mask')['images'][0]['file_name'] == 'b.png'


def test_one_annotation_of_a_task_is_taken(convert, capsys):
    first, second, third = (
        task(rectangle('A', x=i), updated_at=f'2026-0{i}')['annotations'][0] for i in (1, 3, 2)
    )
    skipped = first | dict(was_cancelled=True, updated_at='2026-09')
    several = task() | dict(annotations=[first, second, third, skipped])
    empty = task(id=7, image='b.jpg') | dict(annotations=[])
    found = convert([several, empty])
    assert [a['bbox'][0] for a in found['annotations']] == [6]
    out = capsys.readouterr().out
    assert '1 tasks without an annotation (left out)' in out
    assert '1 tasks with several annotations (the latest is taken)' in out
    third['ground_truth'] = True
    assert convert([several])['annotations'][0]['bbox'][0] == 4


def test_turned_rectangle_becomes_the_box_around_it(convert, capsys):
    turned = rectangle('A', x=50, y=50)
    turned['value']['rotation'] = 90  # clockwise about its first corner
    (annotation,) = convert([task(turned)])['annotations']
    np.testing.assert_allclose(annotation['bbox'], [60, 50, 40, 40], atol=1e-9)
    assert '1 turned boxes (replaced by upright ones)' in capsys.readouterr().out


def test_regions_of_other_kinds_are_counted(convert, capsys):
    choice = dict(id='c', type='choices', value=dict(choices=['good']))
    polygon = dict(id='p', type='polygonlabels', value=dict(points=[], polygonlabels=['x']), **SIZE)
    assert len(convert([task(rectangle('A'), choice, polygon)])['annotations']) == 1
    assert '2 regions of other kinds (left out)' in capsys.readouterr().out


def test_export_is_not_overwritten(run_tool, tmp_path):
    path = tmp_path / 'a.json'
    path.write_text('[]')
    assert 'is the export; give another name' in run_tool(TOOL, path, path)
