"""Every config that ships: valid, built, and two steps that move every variable."""

import importlib.util
import inspect
import pathlib

import numpy as np
import pytest
from PIL import Image

from iwae_tf import datasets
from iwae_tf.config import build_model, build_optimizer, stages, validate

FOLDER = pathlib.Path(__file__).resolve().parents[1] / "configs"
NAMES = sorted(
    path.stem for path in FOLDER.glob("*.py") if not path.stem.startswith("_")
)
OMNIGLOT = [name for name in NAMES if name.startswith("omniglot_")]
PAPER_RUNS = {
    *("mnist_vae", "mnist_iwae", "mnist_vae_2l", "mnist_iwae_2l"),
    *("omniglot_vae", "omniglot_iwae", "omniglot_vae_2l", "omniglot_iwae_2l"),
    *("mnist_miwae", "mnist_ciwae", "mnist_piwae", "mnist_iwae_burda_code"),
}


def get_config(name):
    spec = importlib.util.spec_from_file_location(name, FOLDER / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.get_config


@pytest.fixture(scope="module")
def folder_of_images(tmp_path_factory):
    """Where the config `images` finds its images in this module, and their shape."""
    folder = tmp_path_factory.mktemp("images")
    Image.fromarray(np.zeros([28, 28], np.uint8)).save(folder / "a.png")
    np.save(folder / "a.npy", np.random.default_rng(0).integers(0, 2, (20, 4)))
    return str(folder)


def takes_draws(name):
    return "num_samples" in inspect.signature(get_config(name)).parameters


WITH_DRAWS = [name for name in NAMES if takes_draws(name)]


def test_the_papers_runs_are_there():
    assert set(NAMES) >= PAPER_RUNS
    assert "mnist5k_iwae" in NAMES
    assert set(WITH_DRAWS) >= {n for n in PAPER_RUNS if "vae" in n and n[-4:] == "_2l"}


@pytest.mark.parametrize("name", OMNIGLOT)
def test_the_runs_on_omniglot_are_those_on_mnist(name):
    """So that the networks of these need no steps of their own."""
    config = get_config(name)()
    theirs = get_config(name.replace("omniglot", "mnist"))()
    validate(config)
    assert {key for key in config if config[key] != theirs[key]} == {"dataset"}


@pytest.mark.parametrize("name", [name for name in NAMES if name not in OMNIGLOT])
def test_two_steps_move_every_variable(name, folder_of_images):
    """On sixteen random binary images."""
    config = get_config(name)()
    config.data_dir = folder_of_images
    if config.dataset == "table":
        config.data_dir += "/a.npy"
    validate(config)
    # The number of draws does not change which variables take part.
    config.num_samples = min(4, config.num_samples)
    config.num_groups = min(2, config.num_groups)
    if config.stages:
        config.stages = [(2, 1, *config.stages[0][2:]), (4, 1, *config.stages[1][2:])]
        config.epochs = 2
    config.backward_samples = config.backward_samples and 1
    event = datasets.event_shape(config.dataset, data_dir=config.data_dir)
    model = build_model(config, mean_image=np.full(event, 0.2))
    optimizer = build_optimizer(config, steps_per_epoch=2)
    model.compile(optimizer, run_eagerly=True, jit_compile=False)
    gradients = []
    apply = optimizer.apply

    def record(values, variables):
        named = {v.path: np.max(np.abs(g)) for g, v in zip(values, variables)}
        gradients.append(named)
        apply(values, variables)

    optimizer.apply = record
    images = np.random.default_rng(0).integers(0, 2, [16, *event]).astype("float32")
    labels = np.arange(16) % 10 if config.conditional else None
    before = [w.numpy() for w in model.trainable_variables]
    history = model.fit(images, labels, batch_size=8, verbose=0).history
    after = [w.numpy() for w in model.trainable_variables]
    assert len(gradients) == 2 and np.isfinite(history["bound"][0])
    assert all(len(step) == len(before) for step in gradients)
    for step in gradients:
        for path, largest in step.items():
            assert np.isfinite(largest) and largest > 0, path
    for one, other, path in zip(before, after, gradients[0]):
        assert not np.array_equal(one, other), path


@pytest.mark.parametrize("num_samples", ["1", "5", "50"])
@pytest.mark.parametrize("name", WITH_DRAWS)
def test_the_argument_is_the_number_of_draws(name, num_samples):
    config = get_config(name)(num_samples)
    validate(config)
    assert config.num_samples == int(num_samples)
    assert {stage.num_samples for stage in stages(config)} == {int(num_samples)}
    default = get_config(name)()
    different = {key for key in config if config[key] != default[key]}
    assert different == ({"num_samples"} if num_samples != "50" else set())


@pytest.mark.parametrize("name", sorted(PAPER_RUNS))
def test_the_papers_settings(name):
    config = get_config(name)()
    assert (config.epochs, config.batch_size, config.learning_rate) == (3280, 20, 1e-3)
    assert (config.eval_split, config.eval_num_samples) == ("test", 5000)
    assert (config.binarization, config.likelihood) == ("dynamic", "bernoulli")
    assert config.gradient_estimator == "reparameterized"
    assert sum(stage.epochs for stage in stages(config)) == 3280
    assert config.dataset == name.split("_")[0] and config.model == name.split("_")[1]
    two_layers = name.endswith("_2l")
    assert list(config.latent_dims) == ([100, 50] if two_layers else [50])
    assert [list(dims) for dims in config.hidden_dims] == (
        [[200, 200], [100, 100]] if two_layers else [[200, 200]]
    )
    if config.model in ("miwae", "ciwae", "piwae"):
        assert config.num_groups * config.num_samples == 64
    by_code = name == "mnist_iwae_burda_code"
    assert config.optimizer == ("burda_adam" if by_code else "adam")
    assert config.lr_schedule == ("burda_code" if by_code else "burda")
    assert config.shuffle is not by_code
    assert config.adam_epsilon == 1e-4
