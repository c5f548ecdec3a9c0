# Copyright (c) KAPAO-MM authors. Licensed under Apache-2.0.
"""Makes synthetic candidates that imitate a network's output on crowded images, for benchmarks."""

from collections.abc import Sequence

import numpy as np
import torch
from torch.nn.utils.rnn import pad_sequence

from kapao_mm.models.task_modules.postprocess import Candidates
from kapao_mm.structures import InferenceSettings

BACKGROUND = 2850  # candidates per image, with scores of 0.001 to 0.02
POSE_DUPLICATES, KEYPOINT_DUPLICATES = 4, 3  # candidates per object
KEYPOINT_SIZE = 0.05  # side of a keypoint object's box, as a fraction of the input's longer side


def make_crowds(
    people: int,
    num_images: int = 1,
    keypoint_counts: Sequence[int] = (17,),
    input_hw: tuple[int, int] = (1280, 1280),
    seed: int = 0,
) -> Candidates:
    """Makes random candidates of a batch of crowded images.

    Each person gives a few overlapping pose objects, and a few overlapping keypoint objects for
    each keypoint. The background adds candidates of all classes with low scores. The numbers and
    scores resemble those of the crowds in the reference data.

    Args:
        people: Number of people in each image.
        num_images: N.
        keypoint_counts: Number of keypoint types of each category, C numbers with the sum K. Each
            person gets a random category.
        input_hw: Height and width of the network input, px.
        seed: Seed of the random generator.

    Returns:
        The candidates, in px of the network input, on the CPU.
    """
    rng = np.random.default_rng(seed)
    images = [_draw(rng, people, keypoint_counts, input_hw) for _ in range(num_images)]
    # An image with fewer candidates than another one gets candidates with the score 0.
    return Candidates(
        *(pad_sequence(fields, batch_first=True) for fields in zip(*images, strict=True))
    )


def filter_by_score(
    candidates: Candidates,
    settings: InferenceSettings,
    device: torch.device,
    num_categories: int = 1,
) -> Candidates:
    """Returns the candidates above their score threshold on a device, as :func:`decode` does."""
    pose_thr, keypoint_thr = settings.candidate_thrs
    is_pose = candidates.labels < num_categories
    above = candidates.scores > torch.where(is_pose, pose_thr, keypoint_thr)
    scores, index = (candidates.scores * above).topk(above.sum(1).max().item())  # (N, k)
    image = torch.arange(len(index))[:, None]
    chosen = Candidates(scores, *(field[image, index] for field in candidates[1:]))
    return Candidates(*(field.to(device) for field in chosen))


def _draw(
    rng: np.random.Generator,
    people: int,
    keypoint_counts: Sequence[int],
    input_hw: tuple[int, int],
) -> Candidates:
    """Makes the candidates of one image, without the dimension of the batch."""
    side, extent = max(input_hw), np.array(input_hw[::-1])
    num_categories, num_types = len(keypoint_counts), sum(keypoint_counts)

    heights = rng.uniform(0.12, 0.33, (people, 1)) * side
    sizes = heights * (0.5, 1.0)  # (P, 2)
    centers = rng.uniform(size=(people, 2)) * extent
    offsets = rng.uniform(-0.5, 0.5, (people, num_types, 2))
    keypoints = centers[:, None] + offsets * sizes[:, None]  # (P, K, 2)
    categories = rng.integers(num_categories, size=people)
    poses = _candidates(
        rng,
        keypoints.repeat(POSE_DUPLICATES, 0),
        *_duplicates(POSE_DUPLICATES, rng.uniform(0.2, 0.95, people), categories, centers, sizes),
    )

    of_type = np.repeat(np.arange(num_categories), keypoint_counts)  # (K,)
    person, keypoint_type = np.nonzero(categories[:, None] == of_type)
    keypoint_objects = _candidates(
        rng,
        np.zeros((KEYPOINT_DUPLICATES * len(keypoint_type), num_types, 2)),
        *_duplicates(
            KEYPOINT_DUPLICATES,
            rng.uniform(0.05, 0.8, len(keypoint_type)),
            num_categories + keypoint_type,
            keypoints[person, keypoint_type],
            np.full((len(keypoint_type), 2), KEYPOINT_SIZE * side),
        ),
    )

    background = _candidates(
        rng,
        np.zeros((BACKGROUND, num_types, 2)),
        rng.uniform(0.001, 0.02, BACKGROUND),
        rng.integers(num_categories + num_types, size=BACKGROUND),
        rng.uniform(size=(BACKGROUND, 2)) * extent,
        rng.uniform(0.006, 0.16, (BACKGROUND, 2)) * side,
    )
    parts = (poses, keypoint_objects, background)
    return Candidates(*(torch.cat(fields) for fields in zip(*parts, strict=True)))


def _duplicates(times: int, *fields: np.ndarray) -> list[np.ndarray]:
    return [field.repeat(times, 0) for field in fields]


def _candidates(
    rng: np.random.Generator,
    keypoints: np.ndarray,
    scores: np.ndarray,
    labels: np.ndarray,
    centers: np.ndarray,
    sizes: np.ndarray,
) -> Candidates:
    """Makes a candidate of each object, with small random changes of box, keypoints and score."""
    centers = centers + rng.normal(0, 0.02, centers.shape) * sizes
    halves = sizes * rng.uniform(0.48, 0.52, sizes.shape)
    keypoints = keypoints + rng.normal(0, 0.02, keypoints.shape) * sizes[:, None]
    return Candidates(
        scores=torch.from_numpy(scores * rng.uniform(0.9, 1, scores.shape)).float(),
        labels=torch.from_numpy(labels),
        bboxes=torch.from_numpy(np.concatenate((centers - halves, centers + halves), 1)).float(),
        keypoints=torch.from_numpy(keypoints).float(),
    )
