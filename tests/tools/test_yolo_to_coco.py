# Copyright (c) KAPAO-MM authors. Licensed under Apache-2.0.
import json
import os

import cv2
import numpy as np
import pytest
import yaml

from kapao_mm.datasets.annotations.left_right import left_right_pairs

TOOL = 'dataset_converters/yolo_to_coco.py'
NEW_DATASET = 'dataset_converters/new_dataset.py'
SIZE = 80, 60  # width, height, px
ROW = '0 0.5 0.5 0.25 0.5 0.5 0.25 2 0.625 0.75 1 0 0 0'
COCO_FLIPS = [0, 2, 1, 4, 3, 6, 5, 8, 7, 10, 9, 12, 11, 14, 13, 16, 15]
SHAPE_2 = dict(kpt_shape=[3, 2])


@pytest.fixture
def root(tmp_path):
    """The folder of a dataset."""
    return tmp_path / 'mine'


@pytest.fixture
def add_image(root):
    """Makes a function that writes an image and, unless it is None, its label file."""

    def add(name, label):
        image = root / name
        image.parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(image), np.zeros((*SIZE[::-1], 3), np.uint8))
        if label is not None:
            text = root / name.replace('images', 'labels').replace('.jpg', '.txt')
            text.parent.mkdir(parents=True, exist_ok=True)
            text.write_text(label)

    return add


@pytest.fixture
def dataset(root, add_image):
    """Makes a function that writes a dataset whose first image has the given label file."""

    def write(label=ROW, **changes):
        add_image('images/train/a.jpg', label)
        add_image('images/val/sub/b.jpg', ROW)
        content = dict(train='images/train', val='images/val', names=['cow', 'cart'])
        content |= dict(kpt_shape=[3, 3], flip_idx=[1, 0, 2]) | changes
        content = {key: value for key, value in content.items() if value is not None}
        (root / 'data.yaml').write_text(yaml.safe_dump(content))
        return root / 'data.yaml'

    return write


@pytest.fixture
def convert(run_tool, tmp_path, capsys):
    """Makes a function that runs the tool and returns its message, its output and its files."""

    def run(*args, out='out'):
        message = run_tool(TOOL, *args[:1], tmp_path / out, *args[1:])
        files = {p.stem: json.loads(p.read_text()) for p in (tmp_path / out).glob('*.json')}
        return message, capsys.readouterr().out, files

    return run


@pytest.fixture
def reverse(run_tool, tmp_path):
    """Makes a function that converts JSON files and returns the message and the folder."""

    def run(files, *args, out='yolo'):
        return run_tool(TOOL, '--reverse', *files, tmp_path / out, *args), tmp_path / out

    return run


def keypoint_names(files, category=0):
    return files['train']['categories'][category]['keypoints']


def test_row_becomes_an_annotation_in_pixels(dataset, convert, root):
    message, printed, files = convert(dataset())
    assert message is None
    (image,), (annotation,) = files['train']['images'], files['train']['annotations']
    assert image == dict(id=1, file_name='images/train/a.jpg', width=80, height=60)
    assert annotation['bbox'] == [30, 15, 20, 30]
    assert annotation['keypoints'] == [40, 15, 2, 50, 45, 1, 0, 0, 0]
    assert annotation['num_keypoints'] == 2
    assert [c['name'] for c in files['train']['categories']] == ['cow', 'cart']
    assert annotation['category_id'] == files['train']['categories'][0]['id']
    assert files['val']['images'][0]['file_name'] == 'images/val/sub/b.jpg'
    assert '2 images, 2 objects' in printed
    assert f'out/train.json --val {root.parent}/out/val.json --images {root}' in printed


def test_image_with_empty_or_no_label_file_has_no_objects(dataset, convert, add_image):
    path = dataset()
    add_image('images/train/empty.jpg', '')
    add_image('images/train/none.jpg', None)
    _, printed, files = convert(path)
    assert (len(files['train']['images']), len(files['train']['annotations'])) == (3, 1)
    assert '1 images without a label file (no objects)' in printed


def test_split_without_any_label_file_is_refused(dataset, convert):
    message, _, files = convert(dataset(label=None))
    assert 'no image of train has a label file, such as' in message
    assert not files


def test_last_folder_named_images_becomes_labels(dataset, convert, root):
    path = dataset(train='images/images')
    (root / 'images/train').rename(root / 'images/images')
    (root / 'images/labels').mkdir()
    (root / 'labels/train/a.txt').rename(root / 'images/labels/a.txt')
    assert len(convert(path)[2]['train']['annotations']) == 1


def test_images_outside_a_folder_images_are_refused(dataset, convert, root):
    path = dataset(train='pictures')
    (root / 'images/train').rename(root / 'pictures')
    assert 'pictures/a.jpg is in no folder named images' in convert(path)[0]


def test_label_files_of_no_image_and_junk_are_counted_or_skipped(dataset, convert, root):
    path = dataset()
    (root / 'labels/train/lost.txt').write_text(ROW)
    (root / 'labels/train/classes.txt').write_text('cow')
    (root / 'images/train/._a.jpg').write_text('made by a Mac')
    message, printed, _ = convert(path)
    assert message is None
    assert '1 label files of no image (left out)' in printed


def test_row_of_five_numbers_is_a_box_without_keypoints(dataset, convert):
    _, printed, files = convert(dataset('1 .5 .5 .5 .5\n\n'))
    (annotation,) = files['train']['annotations']
    assert (annotation['keypoints'], annotation['num_keypoints']) == ([0] * 9, 0)
    assert '1 boxes without keypoints' in printed


def test_keypoints_of_two_numbers_are_labeled_unless_at_zero(dataset, convert, root):
    path = dataset('0 .5 .5 .5 .5 0 0 .5 .5 0 .5', **SHAPE_2)
    (root / 'labels/val/sub/b.txt').write_text('')
    _, printed, files = convert(path)
    assert files['train']['annotations'][0]['keypoints'] == [0, 0, 0, 40, 30, 2, 0, 30, 2]
    assert '2 keypoints without visibility (read as visible)' in printed
    assert '1 keypoints at (0, 0) (read as not labeled)' in printed


def test_whole_floats_are_classes_and_visibilities(dataset, convert):
    row = '1.0 .5 .5 .5 .5 .5 .5 2.000 .5 .5 1.0 0 0 0.0'
    (annotation,) = convert(dataset(row))[2]['train']['annotations']
    assert (annotation['category_id'], annotation['keypoints'][2::3]) == (2, [2, 1, 0])


def test_keypoints_outside_and_boxes_without_area_are_counted(dataset, convert):
    rows = [ROW.replace('0.625', '1.125'), ROW.replace('0.25 0.5 0.5', '0 0.5 0.5', 1)]
    _, printed, files = convert(dataset('\n'.join(rows)))
    (annotation,) = files['train']['annotations']
    assert annotation['keypoints'][3] == 90
    assert '1 keypoints outside their image' in printed
    assert '1 boxes without an area (left out)' in printed


@pytest.mark.parametrize(
    ('row', 'error'),
    [
        ('0 .5 .5 .5 .5 .5', 'has 6 numbers, not 5 or 14 (5 + 3 keypoints of 3'),
        ('0 .5 .5 .5 x', "could not convert string to float: 'x'"),
        ('2 .5 .5 .5 .5', 'class 2 is not in names'),
        ('0.5 .5 .5 .5 .5', 'class 0.5 is not in names'),
        ('nan .5 .5 .5 .5', 'class nan is not in names'),
        ('0 320 .5 .5 .5', '320 is not a coordinate divided by the image size'),
        ('0 .5 nan .5 .5', 'nan is not a coordinate'),
        ('0 .5 .5 -.5 .5', 'a negative width or height'),
        (ROW.replace(' 1 ', ' 3 '), 'a visibility is not 0, 1 or 2'),
    ],
)
def test_wrong_row_is_refused_with_file_and_row(dataset, convert, tmp_path, row, error):
    message, *_ = convert(dataset(f'{ROW}\n{row}'))
    assert 'labels/train/a.txt, row 2' in message
    assert error in message
    assert not (tmp_path / 'out').exists()


@pytest.mark.parametrize(
    ('key', 'value'),
    [
        ('kpt_shape', None),
        ('kpt_shape', [3, 4]),
        ('kpt_shape', 3),
        ('flip_idx', [1, 2, 0]),
        ('flip_idx', [0, 1]),
        ('names', None),
        ('names', ['cow', 'cow']),
        ('names', dict(a='cow')),
        ('kpt_names', {0: ['a', 'b']}),
        ('kpt_names', {7: ['a', 'b', 'c']}),
        ('kpt_names', ['a', 'b', 'c']),
        ('kpt_shape', [10**9, 3]),
        ('train', 'nowhere'),
        ('train', 300 * 'x'),
        ('train', 3),
        ('path', 3),
    ],
)
def test_wrong_key_of_the_yaml_is_refused_with_its_name(dataset, convert, tmp_path, key, value):
    message, *_ = convert(dataset(**{key: value}))
    assert message.startswith('error: ')
    assert f'data.yaml: {key} ' in message or f'data.yaml has no {key}' in message
    assert '\n' not in message
    assert not (tmp_path / 'out').exists()


@pytest.mark.parametrize('text', ['a: [', '!!python/object:os.x {}', '- 1', '\0'])
def test_file_that_is_no_data_yaml_is_refused(root, convert, text):
    root.mkdir()
    (root / 'data.yaml').write_text(text)
    message, *_ = convert(root / 'data.yaml')
    assert message.startswith(f'error: {root}/data.yaml')


def test_byte_order_marks_and_names_by_index_are_read(dataset, convert, root):
    path = dataset(names={0: 'cow', 5: 'cart'}, label='5 .5 .5 .5 .5')
    for file in (path, root / 'labels/train/a.txt'):
        file.write_bytes(b'\xef\xbb\xbf' + file.read_bytes())
    assert convert(path)[2]['train']['annotations'][0]['category_id'] == 6


def test_split_may_be_a_list_of_folders_or_a_text_file(dataset, convert, root, add_image):
    path = dataset(train=['images/train', 'images/more'], test='some.txt')
    add_image('images/more/c.jpg', ROW)
    (root / 'some.txt').write_text('./images/train/a.jpg\n\nimages/more/c.jpg\nimages/more/c.jpg\n')
    _, printed, files = convert(path)
    names = ['images/train/a.jpg', 'images/more/c.jpg']
    assert [image['file_name'] for image in files['train']['images']] == names
    assert [image['file_name'] for image in files['test']['images']] == names
    assert '1 images listed twice (read once)' in printed


def test_path_is_relative_to_the_yaml_and_said_if_it_does_not_exist(dataset, convert, root):
    path = dataset(path='.')
    moved = root.parent / 'data.yaml'
    moved.write_text(path.read_text().replace('path: .', 'path: mine'))
    assert convert(moved)[2]['train']['images'][0]['file_name'] == 'images/train/a.jpg'
    message, printed, _ = convert(dataset(path='/another/machine'), out='second')
    assert message is None
    assert f'path /another/machine does not exist: {root} is used' in printed


def test_folder_beside_the_root_that_is_inside_is_found_and_said(dataset, convert):
    message, printed, _ = convert(dataset(train='../images/train'))
    assert message is None
    assert 'train: ../images/train does not exist: images/train is used' in printed


def test_keypoints_without_names_get_names_whose_pairs_are_those_of_flip_idx(dataset, convert):
    _, printed, files = convert(dataset(flip_idx=[2, 1, 0]))
    assert keypoint_names(files) == ['left_1', 'keypoint_1', 'right_1']
    assert left_right_pairs(keypoint_names(files)) == [(0, 2)]
    assert 'keypoints have no names: left_1, keypoint_1, right_1' in printed


def test_without_flip_idx_there_are_no_pairs(dataset, convert):
    _, printed, files = convert(dataset(flip_idx=None))
    assert keypoint_names(files) == ['keypoint_0', 'keypoint_1', 'keypoint_2']
    assert 'flip_idx is missing' in printed


@pytest.mark.parametrize('is_coco', [True, False])
def test_seventeen_keypoints_get_the_names_of_coco_only_with_its_pairs(dataset, convert, is_coco):
    flips = COCO_FLIPS if is_coco else [*range(17)]
    row = '0 .5 .5 .5 .5' + ' 0' * 51
    path = dataset(row, kpt_shape=[17, 3], flip_idx=flips, val=None)
    names = keypoint_names(convert(path)[2])
    assert names[:2] == (['nose', 'left_eye'] if is_coco else ['keypoint_0', 'keypoint_1'])


def test_names_come_from_the_yaml_or_the_command_line(dataset, convert):
    names = ['eye_l', 'eye_r', 'tail']
    path = dataset(kpt_names={1: names})
    _, _, files = convert(path)
    assert keypoint_names(files, 1) == names
    assert keypoint_names(files, 0) == ['left_1', 'right_1', 'keypoint_2']
    _, printed, files = convert(path, '--keypoints', 'a', 'b', 'c', out='second')
    assert keypoint_names(files, 1) == keypoint_names(files, 0) == ['a', 'b', 'c']
    assert 'pairs of the names are not those of flip_idx' in printed
    assert '--keypoints' in convert(path, '--keypoints', 'a', out='third')[0]


def test_existing_folder_with_files_is_not_touched(dataset, convert, tmp_path):
    (tmp_path / 'out').mkdir()
    (tmp_path / 'out/work').touch()
    assert 'out exists: give the name of a new folder' in convert(dataset())[0]
    assert os.listdir(tmp_path / 'out') == ['work']


def test_text_to_coco_to_text_is_exact(dataset, convert, reverse, root, tmp_path):
    rng = np.random.default_rng(0)
    rows = []
    for row in rng.uniform(0, 1, (200, 10)):
        numbers = [f'{x:.6f}'.rstrip('0') for x in row]
        keypoints = [
            f'{x} {y} {v}' for x, y, v in zip(numbers[4::2], numbers[5::2], '012', strict=True)
        ]
        rows.append(' '.join(['1', *numbers[:4], *keypoints]))
    path = dataset('\n'.join([*rows, '0 .5 .5 .5 .5']))
    convert(path)
    files = [tmp_path / f'out/{split}.json' for split in ('train', 'val')]
    message, folder = reverse(files, '--images', root)
    assert message is None
    label = folder / 'labels/train/train/a.txt'
    box_only = '0 0.5 0.5 0.5 0.5' + ' 0' * 9
    assert label.read_text().splitlines() == [*rows, box_only]
    written = yaml.safe_load((folder / 'data.yaml').read_text())
    assert written['kpt_shape'] == [3, 3]
    assert written['flip_idx'] == [1, 0, 2]
    assert written['names'] == {0: 'cow', 1: 'cart'}


@pytest.fixture
def coco(root, add_image):
    """Makes a function that writes a COCO file with one image and its annotations."""

    def write(*changes, categories=None, file_name='a.jpg', name='all.json'):
        add_image('a.jpg', None)
        base = dict(image_id=3, category_id=7, bbox=[3.21, 4.57, 30.01, 40.003], area=9, iscrowd=0)
        base |= dict(keypoints=[7.3, 8.1, 2, 79.99, 0.13, 1, 0, 0, 0], num_keypoints=2)
        annotations = [base | dict(id=i) | change for i, change in enumerate(changes or [{}], 1)]
        images = [dict(id=3, file_name=file_name, width=SIZE[0], height=SIZE[1])]
        categories = categories or [dict(id=7, name='cow', keypoints=['l_eye', 'r_eye', 'tail'])]
        content = dict(images=images, annotations=annotations, categories=categories)
        (root / name).write_text(json.dumps(content))
        return root / name

    return write


def test_coco_to_text_to_coco_is_within_a_thousandth_of_a_pixel(coco, reverse, convert, root):
    path = coco({}, dict(bbox=[-10, 0.1, 33.3, 50.7]))
    message, folder = reverse([path])
    assert message is None
    link = folder / 'images/train/a.jpg'
    assert link.is_symlink()
    assert link.samefile(root / 'a.jpg')
    _, _, files = convert(folder / 'data.yaml')
    before, after = json.loads(path.read_text()), files['train']
    assert [c['name'] for c in after['categories']] == ['cow']
    assert keypoint_names(files) == ['l_eye', 'r_eye', 'tail']
    for old, new in zip(before['annotations'], after['annotations'], strict=True):
        for key in ('bbox', 'keypoints'):
            np.testing.assert_allclose(new[key], old[key], rtol=0, atol=0.001)


def test_what_the_format_cannot_hold_is_counted(coco, reverse, capsys):
    outside = dict(keypoints=[90, 5, 2, 5, 5, 2, 0, 0, 0], bbox=[-50, 1, 60, 20])
    _, folder = reverse([coco(outside, dict(iscrowd=1), dict(bbox=[100, 1, 5, 5]))])
    printed = capsys.readouterr().out
    assert '1 images, 1 objects' in printed
    for what in (
        '1 crowds (left out',
        '1 boxes without an area in their image (left out)',
        '1 boxes clipped to their image',
        '1 keypoints outside their image (written as not labeled)',
    ):
        assert what in printed
    (row,) = (folder / 'labels/train/a.txt').read_text().splitlines()
    numbers = list(map(float, row.split()))
    np.testing.assert_allclose(numbers[1:5], [5 / 80, 11 / 60, 10 / 80, 20 / 60], atol=1e-8)
    assert numbers[5:8] == [0, 0, 0]


@pytest.mark.parametrize('name', ['{root}/a.jpg', '../mine/a.jpg'])
def test_names_outside_the_image_folder_do_not_leave_the_written_one(coco, reverse, root, name):
    _, folder = reverse([coco(file_name=name.format(root=root))])
    assert (folder / 'labels/train/a.txt').is_file()
    assert sorted(p.name for p in root.iterdir()) == ['a.jpg', 'all.json']


def test_images_that_would_share_a_label_file_are_refused(coco, reverse, root):
    path = coco()
    (root / 'a.png').touch()
    content = json.loads(path.read_text())
    content['images'].append(content['images'][0] | dict(id=4, file_name='a.png'))
    path.write_text(json.dumps(content))
    assert 'two images would have the label file of a.png' in reverse([path])[0]


def test_backslashes_in_paths_are_read(dataset, convert, root):
    path = dataset(train='some.txt', val='images\\val')
    (root / 'some.txt').write_text('images\\train\\a.jpg')
    assert convert(path)[2]['train']['images'][0]['file_name'] == 'images/train/a.jpg'


def categories(*keypoints):
    return [dict(id=7 + i, name=f'c{i}', keypoints=k) for i, k in enumerate(keypoints)]


@pytest.mark.parametrize(
    ('changes', 'error'),
    [
        (dict(categories=categories(['a', 'b', 'c'], ['a'])), 'all the same number'),
        (dict(categories=categories(['l_a', 'r_a', 'c'], ['a', 'b', 'c'])), 'same left/right'),
        (dict(categories=categories(['a', 'b'])), 'annotation 1 has 3 keypoints, not 2'),
        (dict(file_name='missing.jpg'), 'image missing.jpg is not in'),
    ],
)
def test_file_that_cannot_be_written_as_yolo_is_refused(coco, reverse, changes, error):
    message, folder = reverse([coco(**changes)])
    assert error in message
    assert not folder.exists()


def test_visibility_that_the_format_does_not_have_is_refused(coco, reverse):
    message, folder = reverse([coco(dict(keypoints=[1, 2, 3] * 3))])
    assert 'annotation 1 has a visibility other than 0, 1 and 2' in message
    assert not folder.exists()


def test_files_with_other_categories_are_refused(coco, reverse):
    other = coco(categories=categories(['a', 'b', 'c']), name='other.json')
    message, _ = reverse([coco(), other])
    assert 'other.json: categories or keypoints are not those of' in message


def read_objects(content):
    """Returns the image name and the numbers of each object that is no crowd, by image."""
    name = {image['id']: os.path.basename(image['file_name']) for image in content['images']}
    objects = [a for a in content['annotations'] if not a['iscrowd']]
    found = [(name[a['image_id']], a['bbox'] + a['keypoints']) for a in objects]
    return sorted(found, key=lambda entry: entry[0])


@pytest.mark.slow
def test_people_of_coco_survive_both_ways_and_new_dataset_reads_them(
    shared_dir, reverse, convert, run_tool, tmp_path, capsys
):
    subset = shared_dir / 'data/coco_subset'
    files = [subset / f'annotations/person_keypoints_{split}.json' for split in ('train', 'val')]
    images = [subset / 'train2017', subset / 'val2017']
    message, folder = reverse(files, '--images', *images)
    assert message is None
    _, _, found = convert(folder / 'data.yaml')
    for path, after in zip(files, found.values(), strict=True):
        before = read_objects(json.loads(path.read_text()))
        for old, new in zip(before, read_objects(after), strict=True):
            assert old[0] == new[0]
            np.testing.assert_allclose(new[1], old[1], rtol=0, atol=0.001)
    args = [tmp_path / 'out/train.json', '--val', tmp_path / 'out/val.json', '--images', folder]
    assert run_tool(NEW_DATASET, *args, '--name', 'people', '--out', tmp_path / 'new') is None
    assert 'left_eye - right_eye' in capsys.readouterr().out
