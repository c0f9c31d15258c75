import pytest

from iwae_tf.startup import _prefer_wide_vectors

FLAG = "--xla_cpu_prefer_vector_width"


@pytest.mark.parametrize(
    ("given", "wanted"),
    [
        (None, f"{FLAG}=512"),
        ("", f"{FLAG}=512"),
        ("--xla_dump_to=x", f"--xla_dump_to=x {FLAG}=512"),
        (f"{FLAG}=256", f"{FLAG}=256"),
    ],
)
def test_the_flags_of_the_user_are_kept(given, wanted):
    environment = {} if given is None else {"XLA_FLAGS": given}
    _prefer_wide_vectors(environment)
    assert environment == {"XLA_FLAGS": wanted}
