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


def test_a_resumed_run_stops_where_the_whole_one_would(train):
    assert train(max_epochs=3) == 3  # 1 validation without improvement
    assert train(resume=True) == 5


def test_the_best_score_survives(train):
    assert train(max_epochs=2) == 2
    assert train(resume=True) == 5


def test_a_run_that_stopped_goes_on_only_with_more_patience(train):
    assert train() == 5
    assert train(resume=True) == 5
    assert train(resume=True, patience=10) == 6


def test_a_run_that_reached_its_goal_does_not_go_on(train):
    assert train(stopping_threshold=0.4) == 2
    assert train(resume=True, stopping_threshold=0.4) == 2


def test_a_crash_in_a_validation_counts_it_once(train):
    with pytest.raises(ZeroDivisionError):
        train(scores=[0.5, 0.3, 0.3, ZeroDivisionError()])
    assert train(resume=True, scores=[0.5, 0.3, 0.3, 0.3, 0.3, 0.3]) == 4
