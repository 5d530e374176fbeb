"""Shows, in one fresh process, what each shim of recbole_llm.compat.shims repairs: `python -m tests.compat.probes FOLDER`.

Every probe runs in a forked child twice, with all shims and with all but its own, and must succeed and fail. The
package's `__init__` applies all shims, so a bare module of that name stands in for it here. Prints JSON:
{shim: {"with": null or error, "without": null or error}}.
"""

import json
import os
import sys
import types
from pathlib import Path

from tests.compat.probes import calls, files, libraries  # noqa: F401  (they declare their probes)
from tests.compat.probes.common import FOLDER, PROBES, write_data
from tests.compat.probes.ray import ray_kinds, with_ray


def forked(function):
    """Run `function` in a child; None when it returned, else its error as text."""
    read, send = os.pipe()
    child = os.fork()
    if child == 0:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        try:
            function()
            message = b"ok"
        except BaseException as error:
            message = f"{type(error).__name__}: {error}".encode()
        os.write(send, message[:2000])
        os._exit(0)
    os.close(send)
    with os.fdopen(read, "rb") as pipe:
        text = pipe.read().decode()
    os.waitpid(child, 0)
    return None if text == "ok" else text or "the process died"


def main():
    package = types.ModuleType("recbole_llm")
    package.__path__ = [str(Path(__file__).resolve().parents[3] / "recbole_llm")]
    sys.modules["recbole_llm"] = package
    import pandas  # noqa: F401  (before the forks, which then share it)
    import sklearn.linear_model  # noqa: F401
    import sklearn.metrics  # noqa: F401
    import torch.utils.tensorboard  # noqa: F401

    from recbole_llm.compat import shims

    os.chdir(FOLDER)
    write_data()
    report = {}
    for kind in ray_kinds():
        report[f"ray_stand_in, ray {kind}"] = {
            "with": forked(with_ray(kind, shims, ())),
            "without": forked(with_ray(kind, shims, ("ray_stand_in",))),
        }
    shims.apply(skip=set(shims.SHIMS) - {"ray_stand_in"})  # imports RecBole once for all children
    for name, function in PROBES.items():
        own = next(shim for shim in shims.SHIMS if name.startswith(shim))
        report[name] = {
            "with": forked(lambda f=function: (shims.apply(), f())),
            "without": forked(lambda f=function, s=own: (shims.apply(skip=(s,)), f())),
        }
    print(json.dumps(report))


if __name__ == "__main__":
    main()
