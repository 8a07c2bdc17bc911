"""The room's public names."""

from __future__ import annotations

import pkgutil

import pytest

import ptn_api.client


def test_every_public_name_can_be_imported() -> None:
    """On first use; former names are aliases."""
    for name in ptn_api.client.__all__:
        assert getattr(ptn_api.client, name) is not None
    homes = {name for names in ptn_api.client._HOMES.values() for name in names}
    assert homes | set(ptn_api.client._FORMER_NAMES) == set(ptn_api.client.__all__)
    assert ptn_api.client.Book is ptn_api.client.PositionMirror


def test_an_unknown_name_is_an_attribute_error() -> None:
    """As of any module."""
    with pytest.raises(AttributeError, match="nonsense"):
        _ = ptn_api.client.nonsense


def test_no_public_name_is_that_of_a_module() -> None:
    """Importing the module would replace the name."""
    modules = {module.name for module in pkgutil.iter_modules(ptn_api.client.__path__)}
    assert modules.isdisjoint(ptn_api.client.__all__)
