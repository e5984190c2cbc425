"""Schemas of the benchmark's and the upsampling study's configs."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hydra.core.config_store import ConfigStore
from omegaconf import MISSING

CONFIG_DIR = Path(__file__).parent / "configs"


@dataclass
class BenchmarkConfig:
    """The root of configs/benchmark.yaml."""

    only: list[str] = MISSING
    quick: bool = MISSING
    growth: bool = MISSING
    json: str | None = None
    plot: str | None = None
    camvid: str | None = None
    accelerator: str = MISSING
    threads: int | None = None
    output_dir: str | None = None


@dataclass
class UpsamplingConfig:
    """The root of configs/upsampling.yaml."""

    steps: int = MISSING
    output_dir: str | None = None
    rows: dict[str, Any] = MISSING


def register() -> None:
    """Register the schemas with Hydra."""
    store = ConfigStore.instance()
    store.store(name="benchmark_schema", node=BenchmarkConfig)
    store.store(name="upsampling_schema", node=UpsamplingConfig)
