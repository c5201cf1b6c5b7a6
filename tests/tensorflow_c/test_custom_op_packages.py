from __future__ import annotations

import pytest

from inserve.tensorflow_c.custom_op_packages import package_of_op


@pytest.mark.parametrize(
    ("op", "distribution"),
    [
        ("TFText>WhitespaceTokenizeWithOffsetsV2", "tensorflow-text"),
        ("WordpieceTokenizeWithOffsets", "tensorflow-text"),
        ("SentencepieceTokenizeWithOffsetsOp", "tensorflow-text"),
        ("SentencepieceOp", "tensorflow-text"),
        ("PhraseTokenize", "tensorflow-text"),
        ("NormalizeUTF8WithOffsetsMap", "tensorflow-text"),
        ("CaseFoldUTF8", "tensorflow-text"),
        ("SimpleMLInferenceOpWithHandle", "tensorflow-decision-forests"),
        ("Addons>Resampler", "tensorflow-addons"),
        ("IO>BigQueryClient", "tensorflow-io"),
        ("TFRA>CuckooHashTableOfTensors", "tensorflow-recommenders-addons"),
        ("CreateRangeEncoder", "tensorflow-compression"),
        ("EntropyDecodeIndex", "tensorflow-compression"),
        ("DecodeProtoSparseV4", "struct2tensor"),
    ],
)
def test_an_operation_leads_to_the_package_that_has_it(op: str, distribution: str) -> None:
    package = package_of_op(op)
    assert package is not None
    assert package.distribution == distribution


@pytest.mark.parametrize("op", ["ZeroOut", "MyTFText>Op", "RangeDatasetish", "IOStuff", ""])
def test_any_other_operation_leads_nowhere(op: str) -> None:
    assert package_of_op(op) is None
