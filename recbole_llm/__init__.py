"""LLM-based sequential recommenders for RecBole: importing this package registers them.

    import recbole_llm
    from recbole.quick_start import run_recbole
    run_recbole(model="iLoRA", dataset="ml-100k")

Import it before RecBole: RecBole 1.2.1 does not import on current libraries without the shims of `recbole_llm.compat.shims`.
"""

from recbole_llm.compat import shims
from recbole_llm.version import __version__ as __version__

shims.apply()

from recbole_llm.compat import config_hook, hooks  # noqa: E402  (RecBole imports only after the shims)
from recbole_llm.config.loader import LLMConfig  # noqa: E402
from recbole_llm.config.values import ConfigError  # noqa: E402
from recbole_llm.registry import register  # noqa: E402
from recbole_llm.runtime import hardware  # noqa: E402

hardware.keep_few_kernels()
hooks.install()
config_hook.install()

__all__ = ["ConfigError", "LLMConfig", "load", "register", "run_recbole_llm"]


def __getattr__(name):
    """Import `run_recbole_llm` and `load` on first use, so that `import recbole_llm` stays light."""
    if name == "run_recbole_llm":
        from recbole_llm.quick_start import run_recbole_llm

        return run_recbole_llm
    if name == "load":
        from recbole_llm.recommend.recommender import load

        return load
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
