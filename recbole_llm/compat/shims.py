"""Makes RecBole 1.2.1 run on current numpy, pandas, scipy, torch and setuptools.

RecBole 1.2.1 asks for ray<=2.6.3 and was written for numpy<2, pandas<3, scipy<1.13 and torch<2.6, which shut out
the transformers and peft of today. This module is the only place that touches its broken spots. Every shim is one
function that names the site, the cause and the effect; `SHIMS` lists them and `apply` runs them when `recbole_llm` is
imported. Each touches RecBole's own modules, or adds a name that a library dropped; none changes `torch.load`.

Another RecBole version raises ImportError: the shims and the registration were checked against 1.2.1 alone.
"""

import ast
import logging
import sys
import types
from importlib import import_module

from recbole_llm.compat.patching import check_version, rebind, rewrite

SHIMS = {}
_applied = set()


def shim(function):
    """Add `function` to `SHIMS` under its own name; they run in the order in which they are written here."""
    SHIMS[function.__name__] = function
    return function


def apply(skip=()):
    """Run every shim once; a second call runs only what has not run yet.

    skip: names of `SHIMS` to leave out, which is how a test shows that a shim is needed.
    Raises ImportError where RecBole is missing or has another version than `RECBOLE_VERSION`.
    """
    check_version()
    unknown = set(skip) - SHIMS.keys()
    if unknown:
        raise ValueError(f"skip names no shim: {sorted(unknown)}; the shims are {list(SHIMS)}")
    for name, function in SHIMS.items():
        if name not in _applied and name not in skip:
            function()
            _applied.add(name)


@shim
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


@shim
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


@shim
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


@shim
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


@shim
def collector_cpu():
    """collector.py:227: `.cpu()` on every collected value.

    Cause: the number of items and the item counts are an int and a Counter. Effect without: ItemCoverage, GiniIndex,
    ShannonEntropy, AveragePopularity and TailPercentage raise AttributeError with any library version.
    """
    from recbole.evaluator import Collector

    line = "self.data_struct._data_dict[key] = self.data_struct._data_dict[key].cpu()"
    rewrite(Collector, "get_data_struct", (line, f'if hasattr(self.data_struct._data_dict[key], "cpu"): {line}', 1))


@shim
def dok_update():
    """`A._update(data)` in LightGCN, NGCF, NCL, GCMC, SpectralCF, KGIN and MCCLK.

    Cause: scipy 1.13 removed the private method. Effect without: these models cannot be built.
    """
    from scipy.sparse import dok_matrix

    if not hasattr(dok_matrix, "_update"):
        dok_matrix._update = lambda matrix, data: matrix._dict.update(data)


@shim
def pop_counts():
    """pop.py:47: `self.item_cnt[item, :] = self.item_cnt[item, :] + 1`.

    Cause: an index that occurs twice in an assignment counts once. Effect without, on any stack: Pop ranks items by the
    number of batches that hold them; with 2,048 rows a batch popular items tie, and the Pop row of a table is too low.
    """
    from recbole.model.general_recommender import Pop

    line = "self.item_cnt[item, :] = self.item_cnt[item, :] + 1"
    rewrite(Pop, "calculate_loss", (line, "self.item_cnt.index_add_(0, item, torch.ones_like(item)[:, None])", 1))


@shim
def download_barrier():
    """dataset.py:252: `torch.distributed.barrier()` after a download.

    Cause: a single process has no process group. Effect without: the run crashes right after fetching a dataset.
    """
    from recbole.data.dataset import Dataset

    barrier = "torch.distributed.barrier()"
    rewrite(Dataset, "_download", (barrier, f"torch.distributed.is_initialized() and {barrier}", 2))


@shim
def own_datasets():
    """dataset.py:267: a dataset folder that is missing is fetched by name from RecBole's table.

    Cause: the table's `lastfm` has no timestamps, others are not in it, and RecBole asks on the terminal, unpacks whatever
    arrives and keeps half of it after a break. Effect without: data that no sequential model can read, or none.
    """
    from recbole.data.dataset import Dataset

    from recbole_llm.data.convert import ensure_dataset

    original = Dataset._load_data

    def _load_data(self, token, dataset_path):
        ensure_dataset(self.config)
        original(self, token, dataset_path)

    Dataset._load_data = _load_data


@shim
def stable_duplicates():
    """dataset.py:853: `rm_dup_inter` sorts the interactions by time with pandas' default, which is not stable.

    Cause: the order that quicksort gives equal times depends on the CPU's vector instructions. Effect without: where
    times are equal (Last.fm: those of a day) another machine keeps other rows last, and tests on other targets.
    """
    from recbole.data.dataset import Dataset

    old = "ascending=True, inplace=True"
    rewrite(Dataset, "_remove_duplication", (old, f'{old}, kind="stable"', 1))


@shim
def atomic_files():
    """dataset.py:486: `pd.read_csv` with its defaults reads atomic files.

    Cause: to pandas NA is no id, and quotes join lines. Effect without, on any stack: an item called NA loses its
    interactions, two stray quotes swallow the rows between them, and errors name neither file nor line.
    """
    from recbole.data.dataset import Dataset

    from recbole_llm.data import loading

    Dataset._load_feat = loading.load_feat


@shim
def time_order():
    """interaction.py:306 through dataset.py:1796: interactions are sorted by times of 32 bits.

    Cause: `_dataframe_to_interaction` casts floats before anything is sorted. Effect without, on any stack: seconds since
    1970 tie within 128 s, and tests are on other interactions than the users' latest.
    """
    from recbole.data.dataset import Dataset

    from recbole_llm.data import loading

    fill, sort = Dataset._fill_nan, Dataset.sort

    def _fill_nan(self):
        fill(self)
        loading.put_in_order(self)

    def sort_checked(self, by, ascending=True):
        loading.check_columns(self, by)
        sort(self, by, ascending)

    Dataset._fill_nan, Dataset.sort = _fill_nan, sort_checked


@shim
def imputed_means():
    """dataset.py:650: an empty number becomes the mean of its column.

    Cause: written for features of lesser weight. Effect without, on any stack: ratings, labels and prices that nobody
    gave. Empty cells are refused where a file is read, rows that a .user or .item file lacks here; [PAD] keeps the mean.
    """
    from recbole.data.dataset import Dataset

    from recbole_llm.data import loading

    fill = Dataset._fill_nan

    def _fill_nan(self):
        loading.check_imputed(self)
        fill(self)

    Dataset._fill_nan = _fill_nan


@shim
def filter_counts():
    """dataset.py:1082: "Some feat is empty, please check the filtering settings."

    Cause: nobody counts what each filter drops. Effect without: neither dataset, filter nor number of rows is named.
    """
    from recbole.data.dataset import Dataset

    from recbole_llm.data import filters

    def counted(name, step):
        def run(self):
            filters.count_steps(self, name, step)

        return run

    for name in filters.STEPS:
        setattr(Dataset, name, counted(name, getattr(Dataset, name)))
    reset = Dataset._reset_index

    def _reset_index(self):
        filters.check_left(self)
        reset(self)

    Dataset._reset_index = _reset_index


@shim
def benchmark_files():
    """dataset.py:301, sequential_dataset.py:154: files of `benchmark_filename` are taken for rows that bring their history.

    Cause: written for such files alone, three of them. Effect without: two files end in an unpacking error, files of plain
    interactions in AttributeError, and a list written with another separator is one item that nobody knows.
    """
    from recbole.data.dataset import Dataset, SequentialDataset

    from recbole_llm.data import benchmark

    load = Dataset._load_inter_feat
    presets, change = SequentialDataset._benchmark_presets, SequentialDataset._change_feat_format

    def _load_inter_feat(self, token, dataset_path):
        if self.benchmark_filename_list is not None:
            benchmark.check_benchmark(self.config)
        load(self, token, dataset_path)
        benchmark.check_history_lists(self)

    def _benchmark_presets(self):
        if benchmark.histories_loaded(self):
            presets(self)

    def _change_feat_format(self):
        change(self)
        if self.benchmark_filename_list is not None and not benchmark.histories_loaded(self):
            benchmark.histories_from_files(self)

    Dataset._load_inter_feat = _load_inter_feat
    SequentialDataset._benchmark_presets = _benchmark_presets
    SequentialDataset._change_feat_format = _change_feat_format


@shim
def flops():
    """utils.py:269 through quick_start.py:141: `get_flops` deep-copies the model and runs it on one raw row.

    Cause: written for small models. Effect without: an LLM is held twice in memory, and predicts from a row without a
    prompt. Plugin models are not counted; RecBole's own are, as before.
    """
    utils = import_module("recbole.utils.utils")
    original = utils.get_flops

    def get_flops(model, dataset, device, logger, transform, verbose=False):
        from recbole_llm.registry import is_plugin_model

        if is_plugin_model(type(model).__name__):
            logger.info("FLOPs are not counted for LLM models")
            return 0
        return original(model, dataset, device, logger, transform, verbose)

    rebind(original, get_flops)


@shim
def plain_checkpoints():
    """trainer.py:323, 583, quick_start.py:250: checkpoints hold a pickled Config, and DIN's a pickled module.

    Cause: torch 2.6 loads weights only, and rightly: unpickling a file runs the code it names. Effect without: training
    ends in UnpicklingError when it loads its best model. Checkpoints are saved as plain data, see checkpoint.py.
    """
    from recbole_llm.training import recbole_checkpoints

    trainer = import_module("recbole.trainer.trainer")
    trainer.save_plain, trainer.load_plain = recbole_checkpoints.save_plain, recbole_checkpoints.load_plain
    save = "save_plain(state, "
    rewrite(trainer.Trainer, "_save_checkpoint", ("torch.save(state, ", save, 1), (", pickle_protocol=4", "", 1))
    rewrite(trainer.PretrainTrainer, "save_pretrained_model", ("torch.save(state, ", save, 1))
    rewrite(trainer.DecisionTreeTrainer, "_save_checkpoint", ("torch.save(state, ", save, 1))
    for name in ("resume_checkpoint", "evaluate"):
        rewrite(trainer.Trainer, name, ("torch.load(", "load_plain(", 1))
    rebind(import_module("recbole.quick_start.quick_start").load_data_and_model, recbole_checkpoints.load_data_and_model)


@shim
def pickled_datasets():
    """data/utils.py:61, 99, 122 and dataset.py:1886: filtered datasets and dataloaders are saved as pickles.

    Cause: `create_dataset` unpickles `<checkpoint_dir>/<dataset>-<class>.pth` whenever such a file lies there.
    Effect without: a file put into the checkpoint folder runs its code. Both directions raise, with the remedy.
    """
    from recbole_llm.training import recbole_checkpoints

    utils = import_module("recbole.data.utils")
    from recbole.data.dataset import Dataset

    utils.refuse_pickle = recbole_checkpoints.refuse_pickle
    rebind(*rewrite(utils, "create_dataset", ("pickle.load(f)", "refuse_pickle(file)", 1)))
    change = ("pickle.load(f)", "refuse_pickle(dataloaders_save_path)", 1)
    rebind(*rewrite(utils, "load_split_dataloaders", change))
    rebind(utils.save_split_dataloaders, recbole_checkpoints.refuse_saving)
    Dataset.save = recbole_checkpoints.refuse_saving


@shim
def hyper_tuning():
    """hyper_tuning.py:132: `np.random.RandomState(seed)` in `exhaustive_search`; :226: `eval` of the parameter file's lists.

    Cause: hyperopt 0.2.7 and later draw from a numpy Generator. Effect without: `algo="exhaustive"`, the default, raises
    AttributeError ('integers') at the first trial. A line of a file that is no list of literals raises ValueError instead of running.
    """
    module = import_module("recbole.trainer.hyper_tuning")
    module.literal_eval = ast.literal_eval
    rewrite(module, "exhaustive_search", ("np.random.RandomState(seed)", "np.random.default_rng(seed)", 1))
    rewrite(module.HyperTuning, "_build_space_from_file", ("eval(para_value)", "literal_eval(para_value)", 1))
