"""Short form of `tests.soak.classes`: a setting of each type, every open parameter of Lightning's classes."""

from __future__ import annotations

from tests.soak import classes


def test_no_setting_takes_a_foreign_class() -> None:
    assert classes.through_configurations(["forecasting", "online"], [classes.SPEC], once=True) > 50


def test_no_parameter_of_a_known_class_takes_one() -> None:
    assert classes.through_classes([classes.SPEC]) > 50
