"""Checks of the options and requests that the data sets of this package share."""

from __future__ import annotations

from aevb_engine.data.dataset import DataRequest
from aevb_engine.errors import DataError, UsageError


def positive(dataset: str, option: str, value: int, most: int = 10_000_000) -> int:
    """``value`` if it is a whole number in 1..most, else a UsageError."""
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= most:
        raise UsageError(f"dataset.{option}={value}: {dataset} needs a whole number from 1 to {most}")
    return value


def no_binarize(dataset: str, kind: str, request: DataRequest) -> None:
    """Refuse a binarization policy for data of ``kind`` ("already binary", "real-valued", ...)."""
    if request.binarize not in (None, "none"):
        raise UsageError(f"--binarize {request.binarize}: {dataset} is {kind}; leave the option out")


def no_scale(dataset: str, kind: str, request: DataRequest) -> None:
    """Refuse a scale for data of ``kind`` that have no pixel scale."""
    if request.scale is not None:
        raise UsageError(f"--scale {request.scale}: {dataset} is {kind}; leave the option out")


def no_binary_decoder(dataset: str, kind: str, request: DataRequest) -> None:
    """Refuse a decoder of 0/1 data for data of ``kind`` that are never made binary."""
    if request.binary_support:
        raise DataError(f"{dataset} is {kind}, this decoder needs 0 and 1; give --decoder gaussian")
