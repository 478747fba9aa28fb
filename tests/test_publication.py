"""What a publication says of itself; what it is refused for stands in test_registry.py."""

import base64
import json
import zlib
from typing import Any

from warehouse.registry.package import pinned_requirements
from warehouse.registry.pages import leaderboard_view
from warehouse.registry.publication import Publication, fit_key, fit_param


def publication(**changes: Any) -> Publication:
    values: dict[str, Any] = {
        "name": "talks",
        "key": "gru-1",
        "variant": "gru",
        "problem": "next_word",
        "headline": "top-5 41.8%",
        "checkpoint": "/nowhere",
        "checkpoint_digest": "0" * 64,
        "examples": ["今天"],
    }
    return Publication(**{**values, **changes})


def test_what_an_evaluation_changes_changes_the_digest_of_scores() -> None:
    plain = publication(scores={"test/top1": 0.4})
    for changes in (
        {"scores": {"test/top1": 0.5}},
        {"samples": [{"prompt": "今天"}]},
        {"tables": {"confusion": [{"wanted": "a"}]}},
        {"headline": "top-5 50.0%"},
        {"description": "- more data"},
    ):
        other = publication(**{"scores": {"test/top1": 0.4}, **changes})
        assert other.scores_digest != plain.scores_digest, changes
    told = publication(scores={"test/top1": 0.4}, tags={"git_commit": "a"}, retraining="today")
    assert told.scores_digest == plain.scores_digest


def test_a_version_has_the_times_of_its_training() -> None:
    history = [{"epoch": 1, "timestamp_ms": 20}, {"epoch": 2, "timestamp_ms": 30}]
    assert (publication().first_timestamp, publication().last_timestamp) == (None, None)
    trained = publication(history=history, started_ms=10)
    assert (trained.first_timestamp, trained.last_timestamp) == (10, 30)
    # A training that was resumed counts from its first epoch.
    assert publication(history=history, started_ms=25).first_timestamp == 20


def test_parameters_may_be_given_by_their_types() -> None:
    given = publication(parameters={"top": (int, 5), "greedy": (bool, False), "beam": ("long", 2)})
    assert given.parameters == {
        "top": ("integer", 5),
        "greedy": ("boolean", False),
        "beam": ("long", 2),
    }


def test_names_and_values_fit_mlflow() -> None:
    assert fit_key("odd(name)=é/ü") == "odd_name__é/ü"
    assert len(fit_key("x" * 300)) == 250
    assert (fit_param(True), fit_param(0.5)) == ("True", "0.5")
    long = fit_param("词" * 7000)
    assert len(long) == 6000 and long.endswith(" … (cut)")


def test_the_view_ranks_by_the_score_that_decides() -> None:
    def state(**changes: Any) -> dict[str, Any]:
        kind, _, packed = leaderboard_view(publication(**changes)).partition(";")
        assert kind == "deflate"
        return dict(json.loads(zlib.decompress(base64.b64decode(packed))))

    scores = {"valid/ppl": 9.0, "test/top1": 0.4, "test/ppl": 8.0}
    ranked = state(scores=scores, ranked_by="test/top1")
    assert (ranked["orderByKey"], ranked["orderByAsc"]) == ("metrics.`test/top1`", False)
    least = state(scores=scores, ranked_by="test/ppl", greater_is_better=False)
    assert (least["orderByKey"], least["orderByAsc"]) == ("metrics.`test/ppl`", True)
    # Scores of the test split stand first.
    assert state(scores=scores)["selectedColumns"][-3:] == [
        "metrics.`test/ppl`",
        "metrics.`test/top1`",
        "metrics.`valid/ppl`",
    ]
    assert state()["orderByKey"] == "attributes.start_time"


def test_requirements_have_no_local_labels() -> None:
    pinned = pinned_requirements(("tokenizers",))
    assert all(each.count("==") == 1 and "+" not in each for each in pinned)
    assert pinned[-1].startswith("tokenizers==")
