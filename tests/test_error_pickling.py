"""Every error of the package survives pickling."""

from __future__ import annotations

import importlib
import inspect
import pickle
import pkgutil
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

import pytest

import ptn_api
from ptn_api.errors import APIStatusError, AuthenticationError, InvalidInputError, PTNError

VALUES = {
    "message": "a sentence",
    "code": "bad_parameter",
    "status": 410,
    "field": "orders",
    "reason": "status 503",
}


def all_errors() -> Iterator[type[PTNError]]:
    for module in pkgutil.walk_packages(ptn_api.__path__, "ptn_api."):
        for _, kind in inspect.getmembers(importlib.import_module(module.name), inspect.isclass):
            if issubclass(kind, PTNError) and kind.__module__ == module.name:
                yield kind


@pytest.mark.parametrize("kind", sorted(set(all_errors()), key=str), ids=lambda kind: kind.__name__)
def test_every_error_survives_pickling(kind: type[PTNError]) -> None:
    """With its message, code and fields: a process pool hangs if unpickling one fails."""
    parameters = inspect.signature(kind).parameters
    error = kind(**{name: VALUES[name] for name in parameters if name in VALUES})
    error.note = "from a subclass"  # type: ignore[attr-defined]
    copy = pickle.loads(pickle.dumps(error))
    assert type(copy) is kind
    assert (str(copy), copy.args, vars(copy)) == (str(error), error.args, vars(error))


def failing(status: int) -> None:
    if status == 401:
        raise AuthenticationError("refused", status=401, code="unauthorized")
    if status == 0:
        raise InvalidInputError("bad", field="price")
    raise APIStatusError("gone", status=status, code="gone")


@pytest.mark.parametrize("status", [401, 410, 0])
def test_a_process_pool_raises_them(status: int) -> None:
    """As with a client that is used in worker processes."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool, pytest.raises(PTNError) as caught:
        pool.submit(failing, status).result(30)
    assert getattr(caught.value, "status", 0) == status
