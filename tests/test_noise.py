"""Noise against a Philox 4x32-10 in NumPy that is written from the paper."""

import numpy as np
import pytest
import scipy.stats
import tensorflow as tf
from running import refusal

from iwae_tf.probability import noise

MASK = np.uint64(0xFFFFFFFF)
MULTIPLIERS = np.uint64(0xD2511F53), np.uint64(0xCD9E8D57)
WEYL = 0x9E3779B9, 0xBB67AE85
GENERATORS = {"uniform": noise.uniform, "normal": noise.normal}
ONE_RECORD = 11_031_643  # of key 0: its last word is within 128 of 2^32
SMALL_RECORD = 14_883_995  # of key 0: its first word is 147
ACROSS_MODES = 2e-6  # log, cos and sin of float32 differ between backends


def philox(counter, key):
    """Ten rounds of Salmon et al.'s figure 2: words [..., 4] of counters [..., 4]."""
    c0, c1, c2, c3 = np.moveaxis(np.asarray(counter, np.uint64), -1, 0)
    for rounds in range(10):
        k0, k1 = (
            np.uint64((word + rounds * step) % 2**32) for word, step in zip(key, WEYL)
        )
        high, low = MULTIPLIERS[0] * c0, MULTIPLIERS[1] * c2
        c0, c1, c2, c3 = (
            (low >> np.uint64(32)) ^ c1 ^ k0,
            low & MASK,
            (high >> np.uint64(32)) ^ c3 ^ k1,
            high & MASK,
        )
    return np.stack([c0, c1, c2, c3], axis=-1)


def record_words(key, first, count, size):
    """Words [count, ceil(size / 4) * 4]: each record has whole counters of its own."""
    blocks = -(-size // 4)
    counters = [first * blocks + i for i in range(count * blocks)]
    counters = [[c % 2**32, c >> 32, 0, 0] for c in counters]
    return philox(counters, key).reshape(count, blocks * 4)


def box_muller(words):
    """Pairs from the first and the second half of each record, in float64.

    The second word is an angle in [-pi/4, pi/4) off the diagonal and, in its two lowest
    bits, the signs of the two coordinates.
    """
    first, second = np.split(words.astype(np.uint32), 2, axis=-1)
    uniforms = (first >> 1).astype(np.float32) + np.float32(0.5)
    radius = np.sqrt(-2 * np.log(uniforms.astype(np.float64) / 2**31))
    turns = second.view(np.int32)
    angle = np.pi / 4 + turns.astype(np.float64) / 2**32 * np.pi / 2
    signs = [1.0 - 2.0 * ((second >> bit) & 1) for bit in (0, 1)]
    return np.concatenate(
        [signs[0] * radius * np.cos(angle), signs[1] * radius * np.sin(angle)], axis=-1
    )


@pytest.mark.parametrize(
    "counter, key, words",
    [
        ([0] * 4, [0] * 2, "6627e8d5 e169c58d bc57ac4c 9b00dbd8"),
        ([2**32 - 1] * 4, [2**32 - 1] * 2, "408f276d 41c83b0e a20bc7c6 6d5451fd"),
        (
            [0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344],
            [0xA4093822, 0x299F31D0],
            "d16cfe09 94fdcceb 5001e420 24126ea1",
        ),
    ],
)
def test_reference_gives_known_answers(counter, key, words):
    assert [f"{word:08x}" for word in philox(counter, key)] == words.split()
    if not any(counter):
        uniforms = noise.uniform(noise.make_key((0, 0)), 0, 1, 4).numpy()[0]
        expected = (np.array([int(word, 16) for word in words.split()]) + 0.5) / 2**32
        assert np.abs(uniforms - expected).max() <= 2**-24


@pytest.mark.parametrize("size", [1, 3, 4, 5, 7, 8, 10])
@pytest.mark.parametrize(
    "seed, first", [((3, 4), 0), ((-1, 2**31), 11), ((2**32 - 5, 9), 2**35 + 3)]
)
def test_records_match_reference(seed, first, size):
    key = noise.make_key(seed)
    words = record_words([word % 2**32 for word in seed], first, 6, size)
    uniforms = noise.uniform(key, first, 6, size).numpy()
    assert uniforms.shape == (6, size) and uniforms.dtype == np.float32
    # Half an ulp of float32 below 1 for the conversion and for the + 1/2.
    assert np.abs(uniforms - (words[:, :size] + 0.5) / 2**32).max() <= 2**-24
    normals = noise.normal(key, first, 6, size).numpy()
    assert normals.shape == (6, size) and normals.dtype == np.float32
    np.testing.assert_allclose(normals, box_muller(words)[:, :size], atol=4e-6)


@pytest.mark.parametrize("name", GENERATORS)
@pytest.mark.parametrize("jit_compile", [False, True])
def test_graph_and_xla_equal_eager(name, jit_compile):
    def records(seed, first):
        key = noise.fold_in(noise.make_key(seed), first + 1)
        return GENERATORS[name](key, first, 401, 50)

    seed, first = tf.constant([3, -8]), tf.constant(7, tf.int64)
    compiled = tf.function(records, jit_compile=jit_compile)(seed, first)
    np.testing.assert_allclose(
        compiled, records(seed, first), rtol=0, atol=ACROSS_MODES
    )


def test_reload_with_count_known_only_at_run_time(tmp_path):
    @tf.function(
        input_signature=[
            tf.TensorSpec([2], tf.int32),
            tf.TensorSpec([], tf.int64),
            tf.TensorSpec([], tf.int32),
        ]
    )
    def records(seed, first, count):
        key = noise.fold_in(noise.make_key(seed), 5)
        return [generate(key, first, count, 7) for generate in GENERATORS.values()]

    module = tf.Module()
    module.records = records
    tf.saved_model.save(module, str(tmp_path))
    reloaded = tf.saved_model.load(str(tmp_path))
    arguments = [-3, 8], tf.constant(2**33, tf.int64), 11
    key = noise.fold_in(noise.make_key((-3, 8)), 5)
    expected = [generate(key, 2**33, 11, 7) for generate in GENERATORS.values()]
    for found in (records(*arguments), reloaded.records(*arguments)):
        np.testing.assert_allclose(found, expected, rtol=0, atol=ACROSS_MODES)


@pytest.mark.parametrize("name", GENERATORS)
@pytest.mark.parametrize("cuts", [[13], [4, 9], [1, 0, 5, 7], [1] * 13])
def test_any_cut_gives_the_same_records(name, cuts):
    key, generate = noise.make_key((5, 6)), GENERATORS[name]
    firsts = 100 + np.cumsum([0, *cuts[:-1]])
    pieces = [generate(key, first, count, 7) for first, count in zip(firsts, cuts)]
    whole = generate(key, 100, 13, 7)
    np.testing.assert_allclose(np.concatenate(pieces), whole, rtol=0, atol=ACROSS_MODES)
    assert generate(key, 3, 0, 5).shape == (0, 5)


@pytest.mark.parametrize("name", GENERATORS)
def test_size_within_whole_counts_only_cuts_the_record(name):
    key, generate = noise.make_key((5, 6)), GENERATORS[name]
    np.testing.assert_allclose(
        generate(key, 3, 4, 5), generate(key, 3, 4, 8)[:, :5], rtol=0, atol=ACROSS_MODES
    )


@pytest.mark.parametrize("size", [1, 3, 4, 5])
def test_records_share_no_numbers(size):
    uniforms = noise.uniform(noise.make_key((5, 6)), 0, 100, size).numpy()
    assert len(np.unique(uniforms)) == 100 * size


# Distribution: each tolerance is five standard errors of the statistic.


def test_normals_are_standard_normal():
    draws = noise.normal(noise.make_key((2024, 1)), 0, 250, 1001).numpy().ravel()
    n = draws.size
    assert abs(draws.mean()) < 5 * np.sqrt(1 / n)
    assert abs(draws.var() - 1) < 5 * np.sqrt(2 / n)
    assert abs(scipy.stats.skew(draws)) < 5 * np.sqrt(6 / n)
    assert abs(scipy.stats.kurtosis(draws)) < 5 * np.sqrt(24 / n)
    assert scipy.stats.kstest(draws, "norm").pvalue > 1e-4
    assert np.abs(draws).max() > 4  # 16 of 250,000 lie beyond on average


def test_uniforms_are_uniform():
    draws = noise.uniform(noise.make_key((2024, 2)), 0, 250, 1001).numpy().ravel()
    assert abs(draws.mean() - 0.5) < 5 * np.sqrt(1 / 12 / draws.size)
    assert scipy.stats.kstest(draws, "uniform").pvalue > 1e-4
    assert draws.min() > 0.0


@pytest.mark.parametrize("power", [1, 2])  # squares share the radius of a pair
def test_normals_of_a_record_are_uncorrelated(power):
    draws = noise.normal(noise.make_key((7, 7)), 0, 40_000, 8).numpy() ** power
    correlation = np.corrcoef(draws, rowvar=False) - np.eye(8)
    assert np.abs(correlation).max() < 5 / np.sqrt(40_000)


def test_uniforms_at_both_ends():
    key = noise.make_key((0, 0))
    assert record_words((0, 0), ONE_RECORD, 1, 4).max() >= 2**32 - 128
    assert noise.uniform(key, ONE_RECORD, 1, 4).numpy().max() < 1.0
    assert record_words((0, 0), SMALL_RECORD, 1, 4)[0, 0] == 147
    smallest = noise.uniform(key, SMALL_RECORD, 1, 4).numpy()[0, 0]  # in all its digits
    assert smallest == np.float32(147 // 2 + 0.5) / np.float32(2**31)


# Keys.


@pytest.mark.parametrize(
    "seed, words",
    [
        ((0, 0), (0, 0)),
        ((1, 2), (1, 2)),
        ((2, 1), (2, 1)),
        ([-1, -(2**31)], (2**32 - 1, 2**31)),
        ((2**31, 2**32 + 7), (2**31, 7)),
        (np.array([5, -6]), (5, 2**32 - 6)),
        ((3.0, 4.0), (3, 4)),
        (tf.constant([-1, 9]), (2**32 - 1, 9)),
        (tf.constant([2**40 + 3, -2], tf.int64), (3, 2**32 - 2)),
        (tf.constant([2**32 - 1, 0], tf.uint32), (2**32 - 1, 0)),
    ],
)
def test_key_is_the_seed_modulo_two_to_the_32(seed, words):
    key = noise.make_key(seed)
    assert key.dtype == tf.uint64 and key.shape == (1,)
    assert int(key[0]) == words[0] + 2**32 * words[1]
    pair = noise.seed_tensor(seed)
    assert pair.dtype == tf.int32
    assert tuple(int(word) % 2**32 for word in pair) == words


@pytest.mark.parametrize(
    "seed",
    [
        *[(1,), (1, 2, 3), (1.5, 2), (1, 2, 1.5), "12", ("a", "b"), None, (None, 1)],
        *[7, [float("nan"), 1], (float("inf"), 1)],
        *map(tf.constant, [[1, 2, 3], 3, [[1, 2]], [1.5, 2.0]]),
    ],
)
def test_bad_seed_is_refused(seed):
    is_tensor = tf.is_tensor(seed)
    shown = "a tensor of shape=" if is_tensor else f"seed={seed!r}"
    for check in [noise.make_key] if is_tensor else [noise.make_key, noise.check_seed]:
        text, rule = refusal(check, seed), "`seed` must be a pair of integers"
        assert text.startswith(f"{rule}. Received: {shown}")
        assert is_tensor or text == f"{rule}. Received: {shown}"


def test_folded_keys_are_distinct():
    key = noise.make_key((1, 2))
    values = [*range(300), -1, -2, 2**31, 2**32, 2**32 + 1, 2**40, 2**63 - 1]
    folded = {int(noise.fold_in(key, value)[0]) for value in values}
    other = {int(noise.fold_in(noise.make_key((2, 2)), v)[0]) for v in values}
    again = {int(noise.fold_in(noise.fold_in(key, 1), v)[0]) for v in values}
    assert len(folded | other | again) == 3 * len(values)
    assert int(key[0]) not in folded


@pytest.mark.parametrize(
    "value", [0, 1, 2**31, 2**40 + 3, -1, tf.constant(77), tf.constant(77, tf.int64)]
)
def test_folded_key_is_words_beyond_all_records(value):
    key, number = noise.fold_in(noise.make_key((6, 7)), value), int(value)
    low, high = philox([number % 2**32, (number >> 32) % 2**32, 0, 2**31], (6, 7))[:2]
    assert int(key[0]) == int(low) + 2**32 * int(high)


def test_folded_keys_give_uncorrelated_noise():
    key = noise.make_key((1, 2))
    keys = [key, *[noise.fold_in(key, value) for value in range(4)]]
    keys += [noise.fold_in(keys[1], 0), noise.fold_in(keys[1], 1)]
    draws = np.stack([noise.normal(k, 0, 200, 200).numpy().ravel() for k in keys])
    correlation = np.corrcoef(draws) - np.eye(len(keys))
    assert np.abs(correlation).max() < 5 / np.sqrt(200 * 200)
