"""LLM-based sequential recommenders for RecBole: importing this package registers them.

    import recbole_llm
    from recbole.quick_start import run_recbole
    run_recbole(model="iLoRA", dataset="ml-100k")

Import it before RecBole: RecBole 1.2.1 does not import on current libraries without the shims of `recbole_llm.compat`.
"""

from recbole_llm import compat

__version__ = "0.1.0"

compat.apply()

from recbole_llm import config, registry  # noqa: E402  (RecBole imports only after the shims)

registry.install()
config.install()

ConfigError = config.ConfigError
LLMConfig = config.LLMConfig
register = registry.register

__all__ = ["ConfigError", "LLMConfig", "load", "register", "run_recbole_llm"]


def __getattr__(name):
    """Import `run_recbole_llm` and `load` on first use, so that `import recbole_llm` stays light."""
    if name == "run_recbole_llm":
        from recbole_llm.quick_start import run_recbole_llm

        return run_recbole_llm
    if name == "load":
        from recbole_llm.recommend import load

        return load
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
