"""What the package ships is what its sources say."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).resolve().parents[2]
PROTOS = ROOT / "src" / "inserve" / "protos"


@pytest.fixture(scope="module")
def generator() -> ModuleType:
    spec = importlib.util.spec_from_file_location("generate_protos", ROOT / "scripts" / "generate_protos.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_shipped_descriptors_and_stub_are_what_the_sources_generate(generator: ModuleType) -> None:
    compiled = generator.compile_definitions()
    assert type(compiled).FromString((PROTOS / "descriptors.binpb").read_bytes()) == compiled
    assert (PROTOS / "messages.pyi").read_text(encoding="utf-8") == generator.stub_text(compiled)
