"""Numbers as a person reads them."""

import pytest

from vesalius.train.report import formats


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (formats.count(950), "950"),
        (formats.count(21_430), "21,430"),
        (formats.count(5_812_224), "5.81 million"),
        (formats.count(1.2e9), "1.20 billion"),
        (formats.short(999), "999"),
        (formats.short(21_430), "21.4k"),
        (formats.short(5_812_224), "5.81M"),
        (formats.rate(1.93e11, "FLOP"), "193 GFLOP/s"),
        (formats.rate(512, "B"), "512 B/s"),
        (formats.size(512), "512 bytes"),
        (formats.size(11_240_000), "11.2 MB"),
        (formats.duration(0.82), "0.8 s"),
        (formats.duration(59.6), "1 min 0 s"),
        (formats.duration(384), "6 min 24 s"),
        (formats.duration(4_320), "1 h 12 min"),
        (formats.percent(0.634), "63 %"),
        (formats.percent(0.0964), "9.6 %"),
        (formats.percent(0), "0 %"),
        (formats.significant(9.996), "10.0"),
        (formats.significant(0.614), "0.61"),
        (formats.scientific(6e-4), "6.0e-4"),
        (formats.scientific(0), "0"),
    ],
)
def test_number_in_words(words: str, expected: str) -> None:
    assert words.replace("\u202f", " ").replace("\u00a0", " ") == expected
