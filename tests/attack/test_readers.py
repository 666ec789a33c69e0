"""Damaged files and messages for everything that reads them: an error of ours, and soon."""

import logging
from collections import Counter

import pytest
from attacked_readers import SLOWEST_S, Reader, attack_readers, every_reader

from secondlook_client.errors import Damaged

SHARE = 0.82
"""Of all inputs."""


@pytest.mark.timeout(7200)
def test_damaged_inputs(tmp_path, inputs):
    logging.disable(logging.WARNING)
    try:
        readers = every_reader(tmp_path)
        readings = attack_readers(readers, int(inputs * SHARE), 1)
    finally:
        logging.disable(logging.NOTSET)
    print(f"{int(inputs * SHARE):,} inputs; slowest {readings.slowest}, {readings.slowest_s:.2f} s")
    kinds = Counter(offence.split(" of ")[0] for offence in readings.offences)
    assert not readings.offences, f"{kinds.most_common(20)} {readings.offences[:5]}"
    assert readings.slowest_s < SLOWEST_S
    assert set(readings.read) == {reader.name for reader in readers}
    assert set(readings.refused) >= {"image", "ontology", "student", "onnx", "coco", "self-test"}


def test_an_attack_tells_what_is_no_error_of_ours():
    def read(content):
        if len(content) % 2:
            raise Damaged("odd")
        raise KeyError("a fault of ours")

    readings = attack_readers([Reader("x", read, [b"abc", b"abcd"], 1)], 100, 1)
    assert readings.offences
    assert readings.refused["x"] + len(readings.offences) == 100
