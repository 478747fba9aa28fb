"""MLflow's pages: their addresses, and the saved view that compares all versions of a model."""

import base64
import json
import zlib

from warehouse.registry.publication import Publication, fit_key, group_of

VIEW = "leaderboard"
# Without it MLflow opens its pages for language model applications.
WORKFLOW = "workflowType=machine_learning"


def leaderboard_link(experiment_id: str) -> str:
    """The address of an experiment's saved view, below that of the pages."""
    return f"#/experiments/{experiment_id}/runs?{WORKFLOW}&viewStateShareKey={VIEW}"


def view_state(tag: str | None) -> str | None:
    """The state of a saved view, from the tag that holds it."""
    return None if tag is None else json.loads(tag).get("state")


def leaderboard_view(publication: Publication) -> str:
    """A saved view of the table of runs: scores as columns, the best on top.

    MLflow keeps shared views as experiment tags in this form; it does not document it.
    """
    scores = sorted(publication.scores, key=lambda name: (group_of(name) != "test", name))
    ranked_by = publication.ranked_by or next(iter(scores), "")
    names = [ranked_by, *(name for name in scores if name != ranked_by)] if scores else []
    metrics = [f"metrics.`{fit_key(name)}`" for name in names]
    # `1` is the check box, `runDateAndNestInfo` the column Created.
    facts = ["1", "attributes.`Run Name`", "runDateAndNestInfo", "duration", "attributes.`Models`"]
    tags = ["tags.`version`", "tags.`champion`"]
    state = {
        "searchFilter": "",
        "orderByKey": metrics[0] if metrics else "attributes.start_time",
        "orderByAsc": bool(metrics) and not publication.greater_is_better,
        "startTime": "ALL",
        "lifecycleFilter": "Active",
        "datasetsFilter": [],
        "modelVersionFilter": "All Runs",
        "selectedColumns": ["attributes.`Models`", *tags, *metrics],
        "columnOrder": [*facts, *tags, *metrics],
        "columnWidths": {name: max(110, 7 * len(name) - 20) for name in metrics},
        "runsHiddenMode": "FIRST_10_RUNS",
        "viewMaximized": False,
        "runListHidden": False,
        "isAccordionReordered": False,
        "useGroupedValuesInCharts": True,
        "hideEmptyCharts": True,
        "groupBy": None,
        "groupsExpanded": {},
        "globalLineChartConfig": {
            "xAxisKey": "step",
            "lineSmoothness": 0,
            "selectedXAxisMetricKey": "",
        },
    }
    return "deflate;" + base64.b64encode(zlib.compress(json.dumps(state).encode())).decode()
