"""The settings of a division, and the split that a hash gives to a group."""

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ..errors import InputError, choose_from

SPLITS = ("train", "valid", "test")


SPLIT_BY = ("hash", "chronological")


@dataclass(frozen=True)
class SplitsConfig:
    """Which share of the groups is kept from training, and how it is chosen.

    - `valid`, `test`: shares from 0 to 1.
    - `salt`: another salt draws other groups (at most 64 bytes of UTF-8).
    - `by`: "hash" (of the group: nothing ever changes its split) or "chronological" (the groups
      that arrived last are the test split, those before them the validation split; as data grows,
      what was held out comes into training). Rows arrive in the order of the sources as given, or
      by `RecordsConfig.time_field`.
    - `similarity`: texts whose three-character shingles have at least this Jaccard similarity (0.5
      to 1) are near duplicates; one of a text that is held out is never trained on.
    - `near_duplicates`: what to do with near duplicates inside of training: "keep" them or "drop"
      all but the first.

    Raises `InputError` for a value that cannot work.
    """

    valid: float = 0.1
    test: float = 0.1
    salt: str = "tidemill"
    by: str = "hash"
    similarity: float = 0.8
    near_duplicates: str = "keep"

    def __post_init__(self) -> None:
        if not (0 <= self.valid <= 1 and 0 <= self.test <= 1 and self.valid + self.test <= 1):
            raise InputError(
                "the shares valid and test lie between 0 and 1, together too, and are not"
                f" {self.valid} and {self.test}"
            )
        if len(self.salt.encode()) > 64:
            raise InputError("the salt of the splits is longer than 64 bytes: take a shorter one")
        if self.by not in SPLIT_BY:
            raise InputError(f"unknown splits.by {self.by!r}: {choose_from(self.by, SPLIT_BY)}")
        if not 0.5 <= self.similarity <= 1:
            raise InputError(f"splits.similarity is {self.similarity}: give 0.5 to 1")
        if self.near_duplicates not in ("keep", "drop"):
            raise InputError(
                f"splits.near_duplicates is {self.near_duplicates!r}: use keep or drop"
            )


def split_of(groups: Iterable[str], config: SplitsConfig) -> npt.NDArray[np.str_]:
    """The split of each group: "train", "valid" or "test", as an array of strings.

    It is decided by a keyed hash of the group alone, so that a row never changes its split while
    others come and go, and equal rows are always in the same one.
    """
    key = config.salt.encode()
    draws = [
        int.from_bytes(hashlib.blake2b(group.encode(), digest_size=8, key=key).digest(), "big")
        for group in groups
    ]
    shares = np.array(draws, np.float64) / 2.0**64
    held_out = np.where(shares < config.test, "test", "valid")
    return np.where(shares < config.test + config.valid, held_out, "train")
