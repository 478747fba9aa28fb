"""What a flow run shows of itself: Markdown, kept by Prefect as an artifact of the run."""

from collections.abc import Mapping, Sequence

from prefect.artifacts import create_markdown_artifact
from prefect.context import FlowRunContext


def show_report(flow: str, name: str, lines: Sequence[str]) -> None:
    """Keep ``lines`` of Markdown with the flow run; nothing where there is none.

    Runs of one ``flow`` over one ``name`` make versions of one artifact.
    """
    if FlowRunContext.get() is None:
        return
    # Prefect's keys are lower case letters, digits and dashes.
    key = "".join(
        c if c.isascii() and (c.isalnum() or c == "-") else "-" for c in f"{flow}-{name}".lower()
    )
    create_markdown_artifact("\n".join(lines), key=key, description=f"{flow} {name}")


def markdown_table(rows: Sequence[Mapping[str, str]]) -> list[str]:
    """Rows with the same keys as a table."""
    if not rows:
        return []
    head = list(rows[0])
    body = [[str(row[key]).replace("|", "\\|") for key in head] for row in rows]
    return [f"| {' | '.join(cells)} |" for cells in (head, ["---"] * len(head), *body)]
