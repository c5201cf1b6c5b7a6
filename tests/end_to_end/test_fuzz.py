"""Whatever arrives, the server answers: it neither dies nor hangs, and no answer is a defect of its own."""

from __future__ import annotations
