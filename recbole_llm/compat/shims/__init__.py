"""Makes RecBole 1.2.1 run on current numpy, pandas, scipy, torch and setuptools.

RecBole 1.2.1 asks for ray<=2.6.3 and was written for numpy<2, pandas<3, scipy<1.13 and torch<2.6, which shut out
the transformers and peft of today. Its broken spots are touched here alone. Every shim is one function that names the
site, the cause and the effect; `SHIMS` lists them and `apply` runs them when `recbole_llm` is imported. Each touches
RecBole's own modules, or adds a name that a library dropped; none changes `torch.load`.

In: RecBole's modules. Out: the same modules, repaired. Another RecBole version raises ImportError: the shims and the
registration were checked against 1.2.1 alone.
"""

from recbole_llm.compat.patching import check_version
from recbole_llm.compat.shims import libraries, models, pickles, reading

# By name, in the order in which they run: RecBole can be imported after the first two, and a function is rewritten before it is wrapped
SHIMS = {
    shim.__name__: shim
    for shim in (
        libraries.numpy_aliases, libraries.ray_stand_in, libraries.pandas_fillna, libraries.pandas_agg_len,
        models.collector_cpu, libraries.dok_update, models.pop_counts,
        reading.download_barrier, reading.own_datasets, reading.stable_duplicates, reading.atomic_files, reading.time_order,
        reading.exact_split, reading.imputed_means, reading.filter_counts, reading.benchmark_files,
        models.flops, models.case_studies, pickles.plain_checkpoints, pickles.pickled_datasets, libraries.hyper_tuning,
    )
}  # fmt: skip
_applied = set()


def apply(skip=()):
    """Run every shim once; a second call runs only what has not run yet.

    Args:
        skip: names of `SHIMS` to leave out, which is how a test shows that a shim is needed.

    Raises:
        ImportError: RecBole is missing or has another version than `RECBOLE_VERSION`.
        ValueError: `skip` names no shim.
    """
    check_version()
    unknown = set(skip) - SHIMS.keys()
    if unknown:
        raise ValueError(f"skip names no shim: {sorted(unknown)}; the shims are {list(SHIMS)}")
    for name, function in SHIMS.items():
        if name not in _applied and name not in skip:
            function()
            _applied.add(name)
