"""What can learn a problem: a recurrent network, or a baseline that it has to beat.

A variant's name says which. ``recurrent.py`` reads the names of networks; those of baselines are
read here.
"""

from dataclasses import dataclass

from ..errors import InputError, nearest
from .recurrent import CELLS, Variant

BASELINES: dict[str, str] = {
    "ngram": "order",
    "last_value": "",
    "seasonal_naive": "period",
    "autoregression": "order",
    "most_frequent": "",
}
"""Kind of baseline -> what the number behind its name says; empty where there is none."""

_FORMS = {
    kind: f"{kind}-{number.upper()}" if number else kind for kind, number in BASELINES.items()
}


@dataclass(frozen=True)
class Baseline:
    """A model without gradients; names read ``KIND[-NUMBER]``: ``ngram-5``, ``last_value``.

    Attributes:
        kind: one of ``BASELINES``.
        order: the number behind the name; 1 where the kind has none. An n-gram model of order ``n``
            looks at ``n - 1`` words, an autoregression at as many values, and a season is as long.

    Raises:
        InputError: for an unknown kind or an order that it cannot have.
    """

    kind: str
    order: int = 1

    def __post_init__(self) -> None:
        if self.kind not in BASELINES:
            raise InputError(
                f"unknown baseline {self.kind!r}: the baselines are {', '.join(_FORMS.values())}"
            )
        if self.order < 1:
            raise InputError(
                f"the {BASELINES[self.kind]} of {self.name} is {self.order}: it must be at least 1"
            )
        if self.order > 1 and not BASELINES[self.kind]:
            raise InputError(f"{self.kind} has no number: its name is just {self.kind}")

    @classmethod
    def parse(cls, name: str) -> "Baseline":
        """The baseline of that name.

        Raises:
            InputError: where the name does not read as one, with the names there are.
        """
        kind, dash, number = name.partition("-")
        has_number = number.isascii() and number.isdigit()
        if kind not in BASELINES or has_number != bool(BASELINES[kind]) or bool(dash) != has_number:
            raise InputError(
                f"unknown baseline {name!r}: the baselines are {', '.join(_FORMS.values())}, "
                f"for example ngram-5 or seasonal_naive-12"
            )
        return cls(kind, int(number)) if has_number else cls(kind)

    @property
    def name(self) -> str:
        """The canonical name, which :meth:`parse` reads back."""
        return f"{self.kind}-{self.order}" if BASELINES[self.kind] else self.kind


def parse_variant(name: str) -> Variant | Baseline:
    """The network or the baseline of that name.

    Raises:
        InputError: where the name reads as neither, with the forms of both.
    """
    head = name.partition("-")[0]
    try:
        if head in BASELINES:
            return Baseline.parse(name)
        if head in CELLS or head.removeprefix("bi") in CELLS:
            return Variant.parse(name)
        raise InputError(
            f"unknown variant {name!r}: a network's name reads "
            f"[bi]CELL[-LAYERS][-textbook][-attention], for example lstm, gru-2 or bilstm-2, and "
            f"the cells are {', '.join(CELLS)}; the baselines are {', '.join(_FORMS.values())}"
        )
    except InputError as error:
        near = _nearest_name(name)
        if near in ("", name):
            raise
        raise InputError(f"{error}; did you mean {near}?") from error


def _nearest_name(name: str) -> str:
    """The name of a network or a baseline that ``name`` is most like; empty where none is close."""
    number = next((part for part in name.split("-") if part.isdecimal()), "2")
    networks = [
        f"{direction}{cell}{layers}{kernel}{attention}"
        for cell in CELLS
        for direction in ("", "bi")
        for layers in ("", f"-{number}")
        for kernel in ("", "-textbook")
        for attention in ("", "-attention")
    ]
    baselines = [f"{kind}-{number}" if counted else kind for kind, counted in BASELINES.items()]
    return nearest(name, [*networks, *baselines])
