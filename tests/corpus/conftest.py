"""A model, texts, and Ray: a stand-in, and the real one where it is installed."""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random

import pytest
from stand_in_ray import RayPackage, StandInRay

from memfold.backbone.folder import save_backbone
from memfold.backbone.model import Backbone
from memfold.corpus.work import Order
from memfold.tasks.filler import sentence

CHUNK = 64  # tokens of a block, so that a text has many


@pytest.fixture(scope="session")
def order(tmp_path_factory: pytest.TempPathFactory, new_backbone: Callable[..., Backbone]) -> Order:
    """How files are folded: with a small model, into blocks of `CHUNK` tokens."""
    backbone = new_backbone()
    backbone.trained = {"pooled": {"ratios": [4, 16]}}
    folder = tmp_path_factory.mktemp("models") / "small"
    save_backbone(backbone, folder)
    return Order("pooled", str(folder), settings={"chunk": CHUNK})


@pytest.fixture
def write(tmp_path: Path) -> Callable[[str, int], Path]:
    """Writes a text of some sentences, which its name decides, into the folder `texts`."""

    def write_text(name: str, sentences: int) -> Path:
        rng = Random(name)
        path = tmp_path / "texts" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(" ".join(sentence(rng) for _ in range(sentences)), encoding="utf-8")
        return path

    return write_text


@pytest.fixture
def stand_in(monkeypatch: pytest.MonkeyPatch) -> Iterator[StandInRay]:
    """Takes the place of Ray, on a machine with two CPUs."""
    monkeypatch.setenv("TOKENIZERS_PARALLELISM", "false")  # workers are forked
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    module = StandInRay()
    monkeypatch.setitem(sys.modules, "ray", module)  # type: ignore[arg-type]
    yield module
    module.shutdown()


@pytest.fixture(scope="session")
def real_ray() -> Iterator[RayPackage]:
    """Ray on two CPUs of this machine."""
    ray = pytest.importorskip("ray")
    psutil = pytest.importorskip("psutil")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        ray.init(
            address="local", num_cpus=2, object_store_memory=80_000_000, include_dashboard=False, log_to_driver=False
        )

    def kill_all() -> None:
        for process in psutil.Process().children(recursive=True):
            if process.name().startswith("ray::Worker"):
                process.send_signal(signal.SIGKILL)

    yield RayPackage(ray, kill_all)
    ray.shutdown()


@pytest.fixture(params=["stand-in", "ray"])
def ray_package(request: pytest.FixtureRequest) -> RayPackage:
    """The stand-in, then the real one."""
    if request.param == "ray":
        real: RayPackage = request.getfixturevalue("real_ray")
        return real
    module: StandInRay = request.getfixturevalue("stand_in")
    return RayPackage(module, module.kill_all)
