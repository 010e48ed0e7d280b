"""Short form of `tests.soak.classes`: one value for every setting and every open parameter, without the
public data sets, which have the settings of the other configurations and a few of their own."""

from __future__ import annotations

from experiments.invocation import configs
from tests.experiments.test_shipped import PUBLIC
from tests.soak import classes


def test_no_setting_of_a_shipped_configuration_takes_a_foreign_class() -> None:
    own = [name for name in configs.shipped() if not name.endswith(PUBLIC)]
    assert classes.through_configurations(own, [classes.SPEC]) > 450


def test_no_parameter_of_a_known_class_takes_one() -> None:
    assert classes.through_classes([classes.SPEC]) > 50
