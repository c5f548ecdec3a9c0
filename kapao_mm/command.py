# Copyright (c) KAPAO-MM authors. Licensed under Apache-2.0.
"""The console command ``kapao``: runs the scripts of ``tools/`` and shows the configs."""

import sys
from types import ModuleType

from kapao_mm import __version__
from kapao_mm.utils.cli import exit_on_input_error
from kapao_mm.utils.project_files import config_names, find_config, project_dir

TOOLS = {  # name: script, what it does
    'train': ('train.py', 'train a model'),
    'test': ('test.py', 'evaluate a model on a dataset'),
    'predict': ('demo.py', 'predict poses in images, videos and streams'),
    'demo': ('web_demo.py', 'predict images and videos on a page in the browser'),
    'export': ('deployment/export.py', 'write an ONNX, OpenVINO, TorchScript or TensorRT file'),
    'convert': (
        'model_converters/official_to_mm.py',
        'convert released weights and those of detectors',
    ),
    'publish': ('misc/publish_model.py', 'keep the parts of a checkpoint that inference needs'),
    'new-dataset': ('dataset_converters/new_dataset.py', 'write the config of a new dataset'),
    'check-dataset': ('misc/check_dataset.py', 'find errors in the datasets of a config'),
    'browse-dataset': ('misc/browse_dataset.py', 'draw the images that a model is trained on'),
    'merge': ('dataset_converters/merge_coco.py', 'merge annotation files of several categories'),
    'subset': ('dataset_converters/subset.py', 'write a part of an annotation file'),
    'label-studio-to-coco': (
        'dataset_converters/label_studio_to_coco.py',
        'convert an export of Label Studio',
    ),
    'animalpose-to-coco': (
        'dataset_converters/animalpose_to_coco.py',
        "convert Animal-Pose's release",
    ),
    'yolo-to-coco': (
        'dataset_converters/yolo_to_coco.py',
        'convert YOLO pose labels, and back',
    ),
    'eval': ('analysis_tools/eval_results.py', 'evaluate a COCO result file'),
    'anchors': ('analysis_tools/optimize_anchors.py', 'measure and search anchors for a dataset'),
    'sweep': ('analysis_tools/sweep.py', 'train or test with several values of a setting'),
    'benchmark': ('analysis_tools/benchmark.py', 'measure inference, post-processing and training'),
    'flops': ('analysis_tools/get_flops.py', 'count parameters and multiply-adds'),
    'check-environment': ('misc/check_environment.py', 'check the installed packages'),
}


def main() -> None:
    """Runs a sub-command."""
    name, *arguments = sys.argv[1:] or ['--help']
    with exit_on_input_error():
        if name in TOOLS:
            run_tool(name, arguments)
        elif name == 'configs' and not arguments:
            print('\n'.join(config_names()))
        elif name == 'config' and len(arguments) == 1:
            print(derived_config(arguments[0]))
        elif name == '--version':
            print(__version__)
        elif name in ('-h', '--help'):
            print(usage())
        else:
            sys.exit(f'{usage()}\nerror: unknown command: kapao {" ".join(sys.argv[1:])}')


def run_tool(name: str, arguments: list[str]) -> None:
    """Runs a script of ``tools/`` as Python would with these arguments.

    The standard library's ``runpy`` would show the script's path as the command in its help.
    """
    script = project_dir() / 'tools' / TOOLS[name][0]
    main = ModuleType('__main__')
    main.__file__ = str(script)
    sys.modules['__main__'] = main
    sys.argv = [f'kapao {name}', *arguments]
    exec(compile(script.read_bytes(), script, 'exec'), vars(main))


def derived_config(name: str) -> str:
    """Writes a config that inherits another one from anywhere.

    Args:
        name: Name of a config of this package.

    Raises:
        InputError: If there is no such config.
    """
    stem = find_config(name).stem
    return (
        f"_base_ = __import__('kapao_mm').config_path({stem!r})\n\n"
        '# Write below what differs, for example:\n'
        '# train_dataloader = dict(batch_size=8)'
    )


def usage() -> str:
    """Lists the sub-commands."""
    own = {
        'configs': 'list the configs; their names work wherever a config file does',
        'config': 'print a config that inherits another: kapao config kapao_s_coco > mine.py',
    }
    lines = {**{tool: text for tool, (_, text) in TOOLS.items()}, **own}
    width = max(map(len, lines))
    return '\n'.join(
        [
            f'KAPAO-MM {__version__}',
            'usage: kapao COMMAND ...   (kapao COMMAND --help explains its arguments)',
            '',
            *(f'  {command:<{width}}  {text}' for command, text in lines.items()),
        ]
    )
