"""What numpy, pandas, scipy, hyperopt and ray changed or removed since RecBole 1.2.1 was written."""

import ast
import logging
import sys
import types
from importlib import import_module

from recbole_llm.compat.patching import rewrite


def numpy_aliases():
    """configurator.py:625-635, metrics.py:90 and others read np.float_, np.unicode_, np.float ...

    Cause: removed in numpy 1.24 and 2.0, and RecBole sets its own aliases only inside `Config.__init__`.
    Effect without: AttributeError at the first Config, or in a dataset or metric used before one.
    """
    import numpy as np

    aliases = {"float_": np.float64, "complex_": np.complex128, "unicode_": np.str_}
    aliases |= {"float": np.float64, "complex": np.complex128, "int": np.int_, "long": np.int_}
    aliases |= {"bool": np.bool_, "object": np.object_, "str": np.str_, "unicode": np.str_}
    for name, value in aliases.items():
        if name not in vars(np):
            setattr(np, name, value)


def ray_stand_in():
    """quick_start.py:20 imports ray.tune, which only hyper-parameter search uses.

    Cause: ray<=2.6.3 needs pkg_resources and np.bool8, and has no wheel for Python 3.12.
    Effect without: `import recbole.quick_start` fails. The stand-in is in sys.modules only while RecBole is imported,
    so that nobody else takes it for ray; a ray that works is used as it is.
    """
    before = set(sys.modules)
    try:
        import_module("ray.tune")
    except Exception as error:  # a broken ray fails in many ways: ImportError, AttributeError (numpy), OSError
        reason = f"{type(error).__name__}: {error}"
    else:
        import_module("recbole.quick_start")
        return
    for name in [name for name in set(sys.modules) - before if name.split(".")[0] == "ray"]:
        del sys.modules[name]
    logging.getLogger(__name__).debug("ray.tune cannot be imported (%s): RecBole gets a stand-in", reason)

    def missing(name):
        raise AttributeError(f"ray.tune.{name} is not there: ray cannot be imported ({reason}). Run: pip install ray")

    ray, tune = types.ModuleType("ray"), types.ModuleType("ray.tune")
    ray.tune, tune.__getattr__ = tune, missing
    tune.report = lambda **metrics: None  # `objective_function`, which HyperTuning calls too: no search of ray is there to tell
    kept = {name: sys.modules.pop(name) for name in ("ray", "ray.tune") if name in sys.modules}
    sys.modules.update({"ray": ray, "ray.tune": tune})
    try:
        import_module("recbole.quick_start")
    finally:
        for name in ("ray", "ray.tune"):
            del sys.modules[name]
        sys.modules.update(kept)


def pandas_fillna():
    """dataset.py:648, 650: `df[field].fillna(..., inplace=True)`.

    Cause: pandas 3 copies on write, so that a chained in-place call changes nothing.
    Effect without: the [PAD] row keeps NaN, DIN then indexes out of range.
    """
    from recbole.data.dataset import Dataset

    rewrite(
        Dataset,
        "_fill_nan",
        ("feat[field].fillna(value=0, inplace=True)", "feat[field] = feat[field].fillna(0)", 1),
        (
            "feat[field].fillna(value=feat[field].mean(), inplace=True)",
            "feat[field] = feat[field].fillna(feat[field].mean())",
            1,
        ),
    )


def pandas_agg_len():
    """dataset.py:712, 792, 809, 1217, kg_dataset.py:316, sequential_dataset.py:165: `feat[field].agg(len)`.

    Cause: pandas 3 hands the whole Series to `len` and returns one number.
    Effect without: any token_seq field crashes; with benchmark files every row silently gets the same history length.
    """
    from recbole.data.dataset import Dataset, KnowledgeBasedDataset, SequentialDataset

    for name, count in {"_normalize": 1, "_discretization": 2, "_remap": 1}.items():
        rewrite(Dataset, name, (".agg(len)", ".map(len)", count))
    rewrite(KnowledgeBasedDataset, "_reset_ent_remapID", (".agg(len)", ".map(len)", 1))
    rewrite(SequentialDataset, "_benchmark_presets", (".agg(len)", ".map(len)", 1))


def dok_update():
    """`A._update(data)` in LightGCN, NGCF, NCL, GCMC, SpectralCF, KGIN and MCCLK.

    Cause: scipy 1.13 removed the private method. Effect without: these models cannot be built.
    """
    from scipy.sparse import dok_matrix

    if not hasattr(dok_matrix, "_update"):
        dok_matrix._update = lambda matrix, data: matrix._dict.update(data)


def hyper_tuning():
    """hyper_tuning.py:132: `np.random.RandomState(seed)` in `exhaustive_search`; :226: `eval` of the parameter file's lists.

    Cause: hyperopt 0.2.7 and later draw from a numpy Generator. Effect without: `algo="exhaustive"`, the default, raises
    AttributeError ('integers') at the first trial. A line of a file that is no list of literals raises ValueError instead of running.
    """
    module = import_module("recbole.trainer.hyper_tuning")
    module.literal_eval = ast.literal_eval
    rewrite(module, "exhaustive_search", ("np.random.RandomState(seed)", "np.random.default_rng(seed)", 1))
    rewrite(module.HyperTuning, "_build_space_from_file", ("eval(para_value)", "literal_eval(para_value)", 1))
