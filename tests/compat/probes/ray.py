"""The stand-in for ray: with ray absent, broken by numpy 2, and working."""

import sys

from tests.compat.probes.common import FOLDER


def ray_stand_in(kind):
    """With ray absent, broken and working; forked before RecBole is imported."""
    from recbole.quick_start import quick_start

    assert kind == "works" or "ray" not in sys.modules or sys.modules["ray"] is None, "the stand-in must not stay"
    assert kind == "works" or quick_start.tune.report(a=1) is None, "no search of ray is running: nothing to report to"
    assert kind != "works" or quick_start.tune.report(a=1) == {"a": 1}, "a working ray must be used"
    if kind != "works":
        try:
            quick_start.tune.run(None)
        except AttributeError as error:
            assert "pip install ray" in str(error)
        else:
            raise AssertionError("a search of ray needs ray")


def ray_kinds():
    """What `import ray.tune` meets: nothing, a ray broken by numpy 2, a ray that works."""
    sources = {"broken": "import numpy\nnumpy.bool8", "works": "def report(**metrics):\n    return metrics"}
    for kind, source in sources.items():
        folder = FOLDER / kind / "ray"
        folder.mkdir(parents=True)
        (folder / "__init__.py").write_text("from ray import helper\n")
        (folder / "helper.py").write_text("")
        (folder / "tune.py").write_text(source + "\n")
    return ("absent", "broken", "works")


def with_ray(kind, shims, skip):
    def run():
        if kind == "absent":
            sys.modules["ray"] = None
        else:
            sys.path.insert(0, str(FOLDER / kind))
        shims.apply(skip)
        ray_stand_in(kind)

    return run
