# Copyright (c) KAPAO-MM authors. Licensed under Apache-2.0.
import pytest

SCORES = [0.1, 0.5, 0.3, 0.4, 0.45, 0.49]


@pytest.fixture
def train(make_run, tmp_path):
    """Makes a function that trains and returns the epochs done."""

    def train(max_epochs=6, resume=False, scores=None, **options):
        stopping = dict(type='ResumableEarlyStoppingHook', monitor='coco/AP', rule='greater')
        options = dict(min_delta=0.01, patience=3) | options
        run = make_run(
            tmp_path,
            hooks=[stopping | options],
            scores=scores or SCORES,
            max_epochs=max_epochs,
            resume=resume,
        )
        run.train()
        return run.epoch

    return train


def test_resumed_run_stops_like_an_uninterrupted_one(train):
    assert train(max_epochs=3) == 3  # 1 validation without improvement
    assert train(resume=True) == 5


def test_best_score_is_restored(train):
    assert train(max_epochs=2) == 2
    assert train(resume=True) == 5


def test_stopped_run_continues_only_with_more_patience(train):
    assert train() == 5
    assert train(resume=True) == 5
    assert train(resume=True, patience=10) == 6


def test_run_that_reached_its_threshold_does_not_continue(train):
    assert train(stopping_threshold=0.4) == 2
    assert train(resume=True, stopping_threshold=0.4) == 2


def test_validation_that_crashed_is_counted_once(train):
    with pytest.raises(ZeroDivisionError):
        train(scores=[0.5, 0.3, 0.3, ZeroDivisionError()])
    assert train(resume=True, scores=[0.5, 0.3, 0.3, 0.3, 0.3, 0.3]) == 4
