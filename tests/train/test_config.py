import tomllib

import pytest

from eqprop.train.config import Config, ConfigError, load_config, presets, to_toml
from eqprop.train.settings import BlockDescentSettings, NewtonSettings


@pytest.mark.parametrize("name", presets())
def test_every_preset_loads_and_survives_being_written(name):
    config = load_config(name)
    again = Config.model_validate(tomllib.loads(to_toml(config)))
    assert again == config
    assert config.name == name


def test_overrides_set_nested_keys_and_types():
    config = load_config(
        "digits",
        [
            "optimiser.learning_rate=0.25",
            "recipe.hidden=[3, 4]",
            "data.name=mnist",
            "recipe.estimator.solver.kind=newton",
        ],
    )
    assert config.optimiser.learning_rate == 0.25
    assert config.recipe.hidden == [3, 4]
    assert config.data.name == "mnist"
    assert isinstance(config.recipe.estimator.solver, NewtonSettings)
    assert isinstance(load_config("digits").recipe.estimator.solver, BlockDescentSettings)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("optimiser.learnin_rate=1", "unknown key `optimiser.learnin_rate`. Did you mean `learning_rate`?"),
        ("recipe.hiden=[3]", "unknown key `recipe.hiden`. Did you mean `hidden`?"),
        ("recipe.estimator.solver.rtoll=1", "unknown key `recipe.estimator.solver.rtoll`. Did you mean `rtol`?"),
        ("epoch=3", "unknown key `epoch`. Did you mean `epochs`?"),
        ("epochs=0", "`epochs` = 0: input should be greater than 0"),
        (
            "recipe.output=softmx",
            "`recipe.output` = 'softmx': input should be 'linear', 'softmax', 'hard_sigmoid', 'logistic' or 'tanh'",
        ),
        ("recipe.estimator.solver.kind=nwton", "`recipe.estimator.solver.kind` must be one of"),
        ("epochs", "must read KEY=VALUE"),
        ("epochs.deep=3", "`epochs` is a value, it has no keys of its own"),
    ],
)
def test_a_wrong_override_is_named_with_its_remedy(override, message):
    with pytest.raises(ConfigError) as caught:
        load_config("digits", [override])
    assert message in str(caught.value)


def test_a_missing_preset_or_file_is_named():
    with pytest.raises(ConfigError, match=r"no preset `digts`. Did you mean `digits`\?"):
        load_config("digts")
    with pytest.raises(ConfigError, match=r"no file nowhere.toml"):
        load_config("nowhere.toml")


def test_a_file_that_is_no_toml_is_named(tmp_path):
    path = tmp_path / "bad.toml"
    path.write_text("epochs = = 3")
    with pytest.raises(ConfigError, match=r"not a readable TOML file"):
        load_config(path)


def test_toml_keeps_strings_infinities_and_odd_keys(tmp_path):
    config = load_config("digits", ['optimiser.bounds={"weights.*" = [0.0, inf]}', 'name="a \\"b\\" \\\\ c"'])
    path = tmp_path / "again.toml"
    path.write_text(to_toml(config))
    assert load_config(path) == config
