# Copyright (c) KAPAO-MM authors. Licensed under Apache-2.0.
import json

import pytest
from mmpose.registry import DATASETS

from kapao_mm.datasets.annotations.reader import read_annotations
from kapao_mm.datasets.metainfo import read_metainfo
from kapao_mm.errors import InputError
from kapao_mm.evaluation import KAPAOMetric

REGIONS = [dict(shape_attributes=dict(name='point', cx=3, cy=4), region_attributes={})]
VIA_IMAGE = dict(filename='a.jpg', size=9, regions=REGIONS, file_attributes={})
ANNOTATION = dict(image_id=1, bbox=[1, 2, 30, 40], keypoints=[[1, 2, 1]] * 20, category_id=1)
FORMATS = dict(  # name of the file -> content, name of the format, remedy
    tasks_json=(
        [dict(id=1, data=dict(image='a.jpg'), annotations=[dict(id=2, result=[])])],
        "Label Studio's own JSON",
        'kapao label-studio-to-coco',
    ),
    old_tasks_json=(
        [dict(id=1, data=dict(image='a.jpg'), completions=[])],
        "Label Studio's own JSON",
        'kapao label-studio-to-coco',
    ),
    min_json=(
        [dict(id=1, image='a.jpg', annotator=1, annotation_id=1, lead_time=2.5)],
        "Label Studio's JSON-MIN",
        'export JSON there instead',
    ),
    via_json=({'a.jpg9': VIA_IMAGE}, "VGG Image Annotator's own JSON", 'COCO format'),
    via_project_json=(
        dict(_via_settings={}, _via_img_metadata={'a.jpg9': VIA_IMAGE}, _via_attributes={}),
        'a project of VGG Image Annotator,',
        'COCO format',
    ),
    via3_json=(
        dict(project={}, config={}, attribute={}, file={}, metadata={}, view={}),
        'a project of VGG Image Annotator 3',
        'CVAT',
    ),
    via_csv=(
        'filename,file_size,file_attributes,region_count,region_id\na.jpg,9,"{}",1,0',
        "VGG Image Annotator's CSV",
        'COCO format',
    ),
    animals_json=(
        dict(images={'1': 'a.jpg'}, annotations=[ANNOTATION], categories=[dict(id=1)]),
        "Animal-Pose's own JSON",
        'kapao animalpose-to-coco',
    ),
    animals_xml=(
        '<?xml version="1.0"?>\n<annotation><image>2007_000063</image><category>dog</category>\n'
        '<keypoints><keypoint name="L_Eye" visible="1" x="1" y="2"/></keypoints></annotation>',
        "Animal-Pose's XML",
        'kapao animalpose-to-coco',
    ),
    labelme_json=(
        dict(version='5.4', flags={}, shapes=[], imagePath='a.jpg', imageData=None),
        'a file of labelme or X-AnyLabeling',
        'YOLO-Pose',
    ),
    datumaro_json=(
        dict(info={}, infos={}, categories=dict(label={}), items=[]),
        "Datumaro's own JSON",
        'coco_person_keypoints',
    ),
    createml_json=(
        [dict(image='a.jpg', annotations=[dict(label='a', coordinates={})])],
        'CreateML',
        'COCO',
    ),
    results_json=(
        [dict(image_id=1, category_id=1, keypoints=[1, 2, 1], score=0.5)],
        'a file of results',
        'give the annotation file',
    ),
    label_txt=('0 0.5 0.5 0.2 0.3 0.4 0.5 2\n', 'a YOLO label file', 'kapao yolo-to-coco'),
    large_label_txt=(
        '0 0.5 0.5 0.2 0.3 0.4 0.5 2 \n' * 1000,
        'a YOLO label file',
        'kapao yolo-to-coco',
    ),
    data_yaml=(
        '# set\npath: ../data\ntrain: images\nkpt_shape: [17, 3]\nnames:\n  0: person\n',
        "YOLO's data.yaml",
        'kapao yolo-to-coco',
    ),
    voc_xml=(
        '<annotation>\n\t<folder>a</folder><object><bndbox/></object></annotation>',
        'Pascal VOC',
        'COCO',
    ),
    cvat_xml=(
        '\ufeff<?xml version="1.0" encoding="utf-8"?>\n<annotations>\n<version>1.1</version>',
        'CVAT XML',
        'COCO Keypoints 1.0',
    ),
    dlc_csv=('scorer,,,me,me\nbodyparts,,,nose,nose', "DeepLabCut's CollectedData", 'to_coco'),
    dlc_h5=(b'\x89HDF\r\n\x1a\n', "DeepLabCut's CollectedData", 'to_coco'),
)


def write(folder, name, content):
    path = folder / '.'.join(name.rsplit('_', 1))
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


@pytest.mark.parametrize('name', FORMATS)
def test_file_of_another_format_is_named_with_what_to_do(tmp_path, name):
    content, found, remedy = FORMATS[name]
    path = write(tmp_path, name, content)
    with pytest.raises(InputError) as error:
        read_annotations(path)
    assert str(error.value).startswith(f'{path} is {found}')
    assert ', not COCO format: ' in str(error.value)
    assert remedy in str(error.value)
    assert '\n' not in str(error.value)


@pytest.mark.parametrize('name', ['label_txt', 'voc_xml', 'labelme_json', 'data_yaml'])
def test_folder_of_another_format_is_named(tmp_path, name):
    content, found, _ = FORMATS[name]
    (tmp_path / 'a.jpg').touch()
    (tmp_path / 'classes.txt').write_text('person\n')
    (tmp_path / 'broken.yaml').write_text('?')
    write(tmp_path, name, content)
    with pytest.raises(InputError, match=f'{tmp_path} is {found}'):
        read_annotations(tmp_path)


@pytest.mark.parametrize(
    ('name', 'content'),
    [
        ('a_txt', 'one two'),
        ('a_txt', ''),
        ('a_txt', '0 500 500 200 300'),
        ('a_txt', '0 0.5 0.5 0.2 0.3\nwords'),
        ('a_yaml', 'names: [a]'),
        ('a_csv', 'a,b'),
        ('a_json', []),
        ('a_json', {}),
        ('a_json', dict(images={})),
        ('a_json', 'text'),
        ('a_bin', b'\xff\xfe\x00'),
    ],
)
def test_file_of_unknown_format_is_not_named(tmp_path, name, content):
    with pytest.raises(InputError) as error:
        read_annotations(write(tmp_path, name, content))
    assert ', not COCO format: ' not in str(error.value)


def points(names, **changes):
    """Returns the content of a file in which each keypoint is a category of its own."""
    categories = [dict(id=i, name=name, keypoints=[]) for i, name in enumerate(names, 1)]
    annotations = [
        dict(id=c['id'], image_id=1, category_id=c['id'], bbox=[5, 6, 0, 0], keypoints=[5, 6, 2])
        | changes
        for c in categories
    ]
    images = [dict(id=1, file_name='1.png', width=40, height=50)]
    return dict(images=images, annotations=annotations, categories=categories)


NAMES = ['nose', 'left_eye', 'right_eye', 'neck', 'tail']


@pytest.mark.parametrize(
    'changes',
    [
        dict(),
        dict(bbox=[5, 6, 1, 1]),
        dict(bbox=[1, 1, 9, 9]),  # around the point
        dict(keypoints=[]),
        dict(keypoints=None),
        dict(bbox=None, keypoints=[]),
    ],
)
def test_points_instead_of_skeletons_are_named_with_what_to_label(tmp_path, changes):
    with pytest.raises(InputError) as error:
        read_annotations(write(tmp_path, 'a_json', points(NAMES, **changes)))
    message, _, other_remedy = str(error.value).partition('; ')
    assert other_remedy.startswith('or write the keypoint') == (changes.get('bbox') == [1, 1, 9, 9])
    assert message == (
        f'annotation file {tmp_path}/a.json has single points (5 annotations of nose, left_eye, '
        'right_eye, neck and 1 more), but no skeletons, so it does not say which points are of one '
        'object: label each object with a skeleton (in CVAT "Setup skeleton"), or with a box and '
        'keypoints in it, and export COCO keypoints'
    )


@pytest.mark.parametrize(
    'content',
    [
        points(NAMES, bbox=[1, 1, 9, 9], keypoints=[]),  # boxes without keypoints
        points(['disc'], bbox=[1, 1, 9, 9]),  # objects of one keypoint
        points(['pair'], keypoints=[5, 6, 2, 7, 8, 2]),  # objects of two keypoints, without names
        points(['box'], keypoints=[]),  # an empty box
        points([]),
    ],
)
def test_boxes_and_objects_with_unnamed_keypoints_are_no_points(tmp_path, content):
    path = write(tmp_path, 'a_json', content)
    assert read_annotations(path)['images'] == content['images']


def test_points_of_a_single_category_are_no_skeletons(tmp_path):
    with pytest.raises(InputError, match=r'single points \(1 annotations of spot\), but no skel'):
        read_annotations(write(tmp_path, 'a_json', points(['spot'])))


def test_category_with_one_named_keypoint_is_no_point(tmp_path):
    content = points(['hub'])
    content['categories'][0]['keypoints'] = ['hub']
    assert read_annotations(write(tmp_path, 'a_json', content)) == content


@pytest.mark.parametrize('name', ['tasks_json', 'label_txt'])
def test_training_and_evaluation_name_the_format(tmp_path, triples, name):
    content, found, _ = FORMATS[name]
    path = str(write(tmp_path, name, content))
    images = dict(img=str(tmp_path))
    config = dict(type='KeypointDataset', metainfo=triples, ann_file=path, data_prefix=images)
    with pytest.raises(InputError, match=f'{path} is {found}'):
        DATASETS.build(config | dict(pipeline=[]))
    with pytest.raises(InputError, match=f'{path} is {found}'):
        KAPAOMetric(ann_file=path).dataset_meta = read_metainfo(triples)
