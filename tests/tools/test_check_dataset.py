# Copyright (c) KAPAO-MM authors. Licensed under Apache-2.0.
import json
import shutil

import cv2
import pytest

TOOL = 'misc/check_dataset.py'
CONFIG = 'configs/kapao/kapao_n_toy.py'
TRAIN = 'annotations/person_keypoints_train.json'
ONE_FILE = dict(train_ann=TRAIN, train_img='train2017', val_ann=TRAIN, val_img='train2017')


@pytest.fixture
def data(toy, tmp_path):
    """A copy of the toy dataset that tests may change."""
    return shutil.copytree(toy, tmp_path / 'data')


@pytest.fixture
def check(run_tool, data, tmp_path, capsys):
    """Makes a function that runs the tool; returns the exit code, the output and the report."""

    def check(*args, config=CONFIG, **options):
        pairs = [
            f'{key.replace("__", ".")}={v}' for key, v in (dict(data_root=data) | options).items()
        ]
        args = [config, '--out-dir', tmp_path / 'out', *args, '--cfg-options', *pairs]
        code = run_tool(TOOL, *args)
        path = tmp_path / 'out/report.json'
        printed = ' '.join(capsys.readouterr().out.split())  # without line breaks
        return code, printed, json.loads(path.read_text()) if path.exists() else None

    return check


@pytest.fixture
def train(data):
    """The training annotations, and a function that writes them."""
    path = data / TRAIN
    content = json.loads(path.read_text())
    return content, lambda: path.write_text(json.dumps(content))


@pytest.mark.slow
def test_correct_data_have_no_faults_and_are_described(check, data, train, tmp_path):
    code, printed, report = check()
    assert code is None
    assert f'train: {data}/{TRAIN}' in printed
    assert f'4 images, {len(train[0]["annotations"])} annotations reading 4 images' in printed
    assert printed.count('faults: none worth a look:') == 2  # of train, and of val and test
    assert printed.endswith(f'Next: kapao browse-dataset {CONFIG}, then kapao train {CONFIG}')
    assert list(report) == ['train', 'val_test']
    for name in report:
        assert cv2.imread(str(tmp_path / f'out/{name}.png')) is not None


@pytest.mark.slow
def test_statistics_are_in_px_of_the_network_input(check, train):
    content, write = train
    person = next(a for a in content['annotations'] if sum(a['keypoints']))
    only = dict(bbox=[0, 0, 64, 128], iscrowd=0, keypoints=[20, 30, 2] + [0] * 48)
    crowd = dict(bbox=[0, 0, 320, 240], iscrowd=1, keypoints=[0] * 51, id=5)
    bare = dict(bbox=[160, 120, 999, 999], keypoints=[0] * 51, id=6)
    content['annotations'] = [person | only, person | crowd, person | bare]
    write()
    _, printed, report = check(input_size=640)  # images are 320 x 240
    found = report['train']['statistics']
    assert found['annotations'] == 3
    assert found['crowd_regions'] == found['without_keypoints'] == 1
    assert found['box_width'] == pytest.approx([137.6, 224, 310.4])  # of 128 and 320
    assert found['box_height'] == pytest.approx([240.8, 248, 255.2])  # of 256 and 240
    assert found['instances_per_image'] == [0.5, 2]
    assert found['keypoints_per_instance'] == 1
    assert found['label_rates']['nose'] == 1 and sum(found['label_rates'].values()) == 1
    assert (
        'percentile 5 50 95 box width, input px 138 224 310 box height, input px 241 248 255'
        in printed
    )
    assert 'keypoint labeled nose 100% left_eye 0%' in printed


@pytest.mark.slow
def test_faults_are_reported_with_all_ids(check, train):
    content, write = train
    people = content['annotations']
    broken = [person['id'] for person in people[:5]]
    for person in people[:5]:
        del person['bbox']
    write()
    code, printed, report = check()
    assert code == 1
    first = ', '.join(map(str, broken[:3]))
    assert f"5 annotations without 'bbox' ({first} and 2 more); use a file of" in printed
    assert printed.endswith('Next: correct the faults, and check again.')
    (fault,) = report['train']['faults']
    assert fault['ids'] == broken
    assert report['train']['statistics']['annotations'] == len(people) - 5  # of the others
    assert not report['val_test']['faults']


@pytest.mark.slow
def test_file_without_correct_images_has_no_statistics(check, train):
    content, write = train
    for image in content['images']:
        image['id'] += 0.5
    write()
    code, printed, report = check()
    assert code == 1
    assert '4 images whose id is not a whole number (images[0] (id ' in printed
    assert 'statistics' not in report['train']


@pytest.mark.slow
def test_missing_truncated_and_rotated_images_are_found(check, data, train):
    missing, cut, rotated, plain = (image['file_name'] for image in train[0]['images'])
    ids = [image['id'] for image in train[0]['images']]
    folder = data / 'train2017'
    (folder / missing).unlink()
    (folder / cut).write_bytes((folder / cut).read_bytes()[:-2000])
    # EXIF segment of an image that is rotated by 90 degrees
    exif = b'Exif\0\0II*\0\x08\0\0\0\x01\0\x12\x01\x03\0\x01\0\0\0\x06\0\0\0\0\0\0\0'
    jpeg = (folder / rotated).read_bytes()
    segment = b'\xff\xe1' + (len(exif) + 2).to_bytes(2, 'big') + exif
    (folder / rotated).write_bytes(jpeg[:2] + segment + jpeg[2:])
    code, printed, report = check()
    assert code == 1
    found = {fault['what']: fault['ids'] for fault in report['train']['faults']}
    assert found == {
        f'images missing in {folder}': ids[:1],
        'images that cannot be read': ids[1:2],
        "images whose size is not their 'width' and 'height'": ids[2:3],
    }
    code, printed, report = check('--skip-images')
    assert code is None and not report['train']['faults']


@pytest.mark.slow
def test_other_files_are_checked_if_one_is_missing(check, data):
    (data / TRAIN).unlink()
    code, printed, report = check()
    assert code == 1
    assert f'annotation file {data}/{TRAIN}: No such file or directory' in printed
    assert '--cfg-options data_root=DIR' in printed
    assert report['train']['faults'] and report['val_test']['statistics']['images'] == 2


@pytest.mark.slow
def test_file_without_annotations_is_plotted(check, train, recwarn):
    content, write = train
    content['annotations'] = []
    write()
    code, printed, report = check()
    assert code is None
    assert '4 images without annotations' in printed
    assert not [w for w in recwarn if 'legend' in str(w.message)]


@pytest.mark.slow
def test_dataset_inside_a_wrapper_is_checked_once(check, toy):
    _, printed, report = check(config='configs/kapao/kapao_n_overfit.py', **ONE_FILE)
    assert list(report) == ['train_val_test'] and 'train, val, test: ' in printed


@pytest.mark.slow
def test_several_training_datasets_are_numbered(check, data, train):
    crowd = dict(crowdpose_root=data, crowdpose_ann=TRAIN, crowdpose_img='train2017')
    code, printed, report = check(
        '--skip-images', config='configs/kapao/kapao_s_coco_crowdpose.py', **ONE_FILE, **crowd
    )
    assert code == 1  # CrowdPose has 14 keypoints, not 17
    assert list(report) == ['train_val_test', 'train_2']
    assert "17 keypoints, the metainfo of 'crowdpose' has 14" in printed


def test_other_dataset_classes_are_refused(check):
    code, _, report = check(train_dataloader__dataset__type='CocoDataset')
    assert code == 'error: train_dataloader: the type of its dataset must be KeypointDataset'
    assert report is None


@pytest.mark.slow
def test_several_categories_are_counted_separately(check, train, tmp_path):
    content, write = train
    person = content['annotations'][0]
    wheel = dict(id=7, category_id=7, keypoints=[50, 60, 2] * 5, num_keypoints=5)
    content['annotations'].append(person | wheel)
    content['categories'].append(dict(id=7, name='wheel'))
    write()
    people = [p for p in content['annotations'][:-1] if not p['iscrowd']]
    code, printed, report = check(config='configs/kapao/kapao_n_people_wheels.py', **ONE_FILE)
    assert code is None
    assert f'person {len(people)}, wheel 1' in printed
    rates = report['train_val_test']['statistics']['label_rates']
    assert len(rates) == 22 and rates['wheel/tread_inner'] == 1
    assert cv2.imread(str(tmp_path / 'out/train_val_test.png')) is not None


@pytest.mark.slow
def test_real_sample_has_no_faults(check, shared_dir):
    names = dict(train_ann='test_crowdpose.json', val_ann='test_crowdpose.json')
    code, printed, report = check(
        config='configs/kapao/kapao_s_crowdpose.py',
        data_root=shared_dir / 'data/crowdpose_sample',
        train_img='',
        val_img='',
        **names,
    )
    assert code is None
    assert 'annotations: 4 with labeled keypoints, 1 without, 0 crowd regions' in printed
    found = [finding['what'] for finding in report['train_test']['worth_a_look']]
    assert "annotations without an 'area' above 0" in found


@pytest.mark.slow
def test_objects_too_small_for_the_input_are_reported(check, train):
    content, write = train
    for person in content['annotations']:
        person |= dict(bbox=[10, 10, 8, 8], keypoints=[12, 12, 2] * 17, num_keypoints=17)
    for image in content['images']:
        image.update(width=384, height=384)
    write()
    code, printed, report = check('--skip-images', input_size=384)
    assert code is None
    (found,) = (f for f in report['train']['worth_a_look'] if 'too small' in f['what'])
    shown = [person['id'] for person in content['annotations'] if not person['iscrowd']]
    assert found['ids'] == shown
    assert 'objects too small to be learned in an input of 384 px' in printed
    assert 'input_size=768 or more is enough for 98% of all objects' in printed


@pytest.mark.slow
def test_converted_values_are_reported(check, train):
    content, write = train
    content['annotations'][0]['iscrowd'] = True
    write()
    code, printed, report = check('--skip-images')
    assert code is None
    assert f"{TRAIN}: 1 annotations whose 'iscrowd' is true, false, null or text" in printed
    assert content['annotations'][0]['id'] in next(
        f['ids'] for f in report['train']['worth_a_look'] if f['what'] == 'crowd regions'
    )


@pytest.mark.slow
def test_file_that_is_not_an_annotation_file_is_a_fault(check, data):
    (data / TRAIN).write_text('{"images": [1]}')
    code, printed, report = check()
    assert code == 1 and f'annotation file {data}/{TRAIN}' in printed
    assert report['val_test']['statistics']['images'] == 2


@pytest.mark.slow
def test_keypoint_names_in_another_order_are_reordered_and_others_are_a_fault(check, train):
    content, write = train
    names = content['categories'][0]['keypoints']
    for annotation in content['annotations']:
        annotation['keypoints'] = annotation['keypoints'][3:] + annotation['keypoints'][:3]
    content['categories'][0]['keypoints'] = [*names[1:], names[0]]
    write()
    code, printed, _ = check('--skip-images')
    assert code is None
    count = len(content['annotations'])
    assert f'{count} annotations whose category names the keypoints in another order' in printed
    content['categories'][0]['keypoints'] = [*names[1:], 'nostril']
    write()
    code, printed, _ = check('--skip-images')
    assert code == 1
    assert 'other keypoints than the metainfo (nostril instead of nose)' in printed
