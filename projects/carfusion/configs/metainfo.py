"""Metainfo of cars in CarFusion; right and left are seen from the driver's seat."""

RIGHT, LEFT, MIDDLE = [0, 128, 255], [0, 255, 0], [255, 128, 0]  # RGB

dataset_info = dict(
    dataset_name='carfusion',
    paper_info=dict(
        author='Reddy, N. Dinesh and Vo, Minh and Narasimhan, Srinivasa G.',
        title='CarFusion: Combining Point Tracking and Part Detection for Dynamic 3D '
        'Reconstruction of Vehicles',
        container='Proceedings of IEEE Conference on Computer Vision and Pattern Recognition '
        '(CVPR)',
        year='2018',
    ),
    keypoint_info={
        0: dict(name='right_front_wheel', color=RIGHT, swap='left_front_wheel'),
        1: dict(name='left_front_wheel', color=LEFT, swap='right_front_wheel'),
        2: dict(name='right_back_wheel', color=RIGHT, swap='left_back_wheel'),
        3: dict(name='left_back_wheel', color=LEFT, swap='right_back_wheel'),
        4: dict(name='right_front_headlight', color=RIGHT, swap='left_front_headlight'),
        5: dict(name='left_front_headlight', color=LEFT, swap='right_front_headlight'),
        6: dict(name='right_back_headlight', color=RIGHT, swap='left_back_headlight'),
        7: dict(name='left_back_headlight', color=LEFT, swap='right_back_headlight'),
        8: dict(name='exhaust', color=MIDDLE, swap=''),
        9: dict(name='right_front_top', color=RIGHT, swap='left_front_top'),
        10: dict(name='left_front_top', color=LEFT, swap='right_front_top'),
        11: dict(name='right_back_top', color=RIGHT, swap='left_back_top'),
        12: dict(name='left_back_top', color=LEFT, swap='right_back_top'),
        13: dict(name='center', color=MIDDLE, swap=''),
    },
    skeleton_info={
        0: dict(link=('right_front_wheel', 'right_back_wheel'), color=RIGHT),
        1: dict(link=('left_front_wheel', 'left_back_wheel'), color=LEFT),
        2: dict(link=('right_front_wheel', 'right_front_headlight'), color=RIGHT),
        3: dict(link=('left_front_wheel', 'left_front_headlight'), color=LEFT),
        4: dict(link=('right_back_wheel', 'right_back_headlight'), color=RIGHT),
        5: dict(link=('left_back_wheel', 'left_back_headlight'), color=LEFT),
        6: dict(link=('right_front_headlight', 'right_front_top'), color=RIGHT),
        7: dict(link=('left_front_headlight', 'left_front_top'), color=LEFT),
        8: dict(link=('right_back_headlight', 'right_back_top'), color=RIGHT),
        9: dict(link=('left_back_headlight', 'left_back_top'), color=LEFT),
        10: dict(link=('right_front_top', 'right_back_top'), color=RIGHT),
        11: dict(link=('left_front_top', 'left_back_top'), color=LEFT),
        12: dict(link=('right_front_headlight', 'left_front_headlight'), color=MIDDLE),
        13: dict(link=('right_back_headlight', 'left_back_headlight'), color=MIDDLE),
        14: dict(link=('right_front_top', 'left_front_top'), color=MIDDLE),
        15: dict(link=('right_back_top', 'left_back_top'), color=MIDDLE),
    },
    joint_weights=[1.0] * 14,
    sigmas=[0.05] * 14,  # no published sigmas; those of COCO are between 0.025 and 0.107
)
