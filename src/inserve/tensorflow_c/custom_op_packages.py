"""Which package has an operation that TensorFlow does not know, by the operation's name."""

from __future__ import annotations

import re
from typing import NamedTuple

__all__ = ["OpPackage", "package_of_op"]


class OpPackage(NamedTuple):
    """A package that brings operations."""

    distribution: str
    """What ``pip install`` takes."""
    module: str
    """What ``import`` takes."""


_PATTERNS: tuple[tuple[str, OpPackage], ...] = (
    (
        r"TFText>.*|.*Sentencepiece.*Op|.*Tokenize(WithOffsets)?(V2)?|TokenizerFromLogits|RegexSplitWithOffsets"
        r"|(CaseFold|Normalize)UTF8.*|FastBertNormalize|FindSourceOffsets|ConstrainedSequence"
        r"|MaxSpanningTree|RougeL|SentenceFragments(V2)?",
        OpPackage("tensorflow-text", "tensorflow_text"),
    ),
    (r"SimpleML.*", OpPackage("tensorflow-decision-forests", "tensorflow_decision_forests")),
    (r"Addons>.*", OpPackage("tensorflow-addons", "tensorflow_addons")),
    (r"IO>.*", OpPackage("tensorflow-io", "tensorflow_io")),
    (r"TFRA>.*", OpPackage("tensorflow-recommenders-addons", "tensorflow_recommenders_addons")),
    (
        r"(Create|Entropy|UnboundedIndex)?Range(En|De)code.*|CreateRange(En|De)coder|Entropy(En|De)code.*"
        r"|PmfToQuantizedCdf|RunLength(Gamma)?(En|De)code|StochasticRound",
        OpPackage("tensorflow-compression", "tensorflow_compression"),
    ),
    (
        r"DecodeProtoSparse(V\d)?|DecodeProtoMap(V\d)?|EquiJoin(Any)?Indices|RunLengthBefore|ParquetDataset",
        OpPackage("struct2tensor", "struct2tensor"),
    ),
    (r"TFGNN>.*", OpPackage("tensorflow-gnn", "tensorflow_gnn")),
    (r"Tfq.*", OpPackage("tensorflow-quantum", "tensorflow_quantum")),
    (r"Reverb.*", OpPackage("dm-reverb", "reverb")),
    (r"Horovod.*", OpPackage("horovod", "horovod")),
)


def package_of_op(op: str) -> OpPackage | None:
    """Return the package that is known for the operation *op*, None where none is."""
    for pattern, package in _PATTERNS:
        if re.fullmatch(pattern, op):
            return package
    return None
