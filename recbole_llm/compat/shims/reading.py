"""How RecBole reads, filters and orders a dataset's files: by the plugin's reader, which `recbole_llm.data` holds."""

from pathlib import Path

from recbole_llm.compat.patching import rewrite


def download_barrier():
    """dataset.py:252: `torch.distributed.barrier()` after a download.

    Cause: a single process has no process group. Effect without: the run crashes right after fetching a dataset.
    """
    from recbole.data.dataset import Dataset

    barrier = "torch.distributed.barrier()"
    rewrite(Dataset, "_download", (barrier, f"torch.distributed.is_initialized() and {barrier}", 2))


def own_datasets():
    """dataset.py:267: a dataset folder that is missing is fetched by name from RecBole's table.

    Cause: the table's `lastfm` has no timestamps, others are not in it, and RecBole asks on the terminal, unpacks whatever
    arrives and keeps half of it after a break. Effect without: data that no sequential model can read, or none.
    """
    from recbole.data.dataset import Dataset

    from recbole_llm.data.columns import check_columns
    from recbole_llm.data.convert import ensure_dataset, how_to_get

    original = Dataset._load_data

    def _load_data(self, token, dataset_path):
        ensure_dataset(self.config)
        if not (folder := Path(dataset_path)).is_dir():
            raise FileNotFoundError(f"dataset folder {folder} not found. {how_to_get(self.dataset_name, folder.parent)}")
        check_columns(self.config)
        original(self, token, dataset_path)

    Dataset._load_data = _load_data


def stable_duplicates():
    """dataset.py:853: `rm_dup_inter` sorts the interactions by time with pandas' default, which is not stable.

    Cause: the order that quicksort gives equal times depends on the CPU's vector instructions. Effect without: where
    times are equal (Last.fm: those of a day) another machine keeps other rows last, and tests on other targets.
    """
    from recbole.data.dataset import Dataset

    old = "ascending=True, inplace=True"
    rewrite(Dataset, "_remove_duplication", (old, f'{old}, kind="stable"', 1))


def atomic_files():
    """dataset.py:486: `pd.read_csv` with its defaults reads atomic files.

    Cause: to pandas NA is no id, and quotes join lines. Effect without, on any stack: an item called NA loses its
    interactions, two stray quotes swallow the rows between them, and errors name neither file nor line.
    """
    from recbole.data.dataset import Dataset

    from recbole_llm.data import loading

    Dataset._load_feat = loading.load_feat


def time_order():
    """interaction.py:306 through dataset.py:1796: interactions are sorted by times of 32 bits.

    Cause: `_dataframe_to_interaction` casts floats before anything is sorted. Effect without, on any stack: seconds since
    1970 tie within 128 s, and tests are on other interactions than the users' latest.
    """
    from recbole.data.dataset import Dataset

    from recbole_llm.data import time_order

    fill, sort = Dataset._fill_nan, Dataset.sort

    def _fill_nan(self):
        fill(self)
        time_order.put_in_order(self)

    def sort_checked(self, by, ascending=True):
        time_order.check_columns(self, by)
        sort(self, by, ascending)

    Dataset._fill_nan, Dataset.sort = _fill_nan, sort_checked


def exact_split():
    """dataset.py:1756: a split by time (TS) compares times of 32 bits with a boundary of them.

    Cause: as of `time_order`. Effect without, on any stack: the rows within 128 s of the boundary, or all where a dataset is as
    short, fall on one side of it; with order RO rows are handed out by the times of others.
    """
    from recbole.data.dataset import Dataset

    from recbole_llm.data import time_order

    build, convert = Dataset.build, Dataset._dataframe_to_interaction

    def build_exactly(self):
        if not time_order.splits_by_time(self.config):
            return build(self)
        time_order.check_split(self.config)
        self._exact_times = True
        try:
            splits = build(self)
        finally:
            self._exact_times = False
        for dataset in (self, *splits):
            time_order.cast_times(dataset)
        return splits

    def _dataframe_to_interaction(self, data):
        feat = convert(self, data)
        if data is self.inter_feat and getattr(self, "_exact_times", False):
            time_order.keep_exact(self, data, feat)
        return feat

    Dataset.build, Dataset._dataframe_to_interaction = build_exactly, _dataframe_to_interaction


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


def benchmark_files():
    """dataset.py:301, sequential_dataset.py:154: files of `benchmark_filename` are taken for rows that bring their history.

    Cause: written for such files alone, three of them. Effect without: two files end in an unpacking error, files of plain
    interactions in AttributeError, and a list written with another separator is one item that nobody knows.
    """
    from recbole.data.dataset import Dataset, SequentialDataset

    from recbole_llm.data import benchmark, columns

    load = Dataset._load_inter_feat
    presets, change = SequentialDataset._benchmark_presets, SequentialDataset._change_feat_format

    def _load_inter_feat(self, token, dataset_path):
        if self.benchmark_filename_list is not None:
            benchmark.check_benchmark(self.config)
        load(self, token, dataset_path)
        benchmark.check_history_lists(self)

    def _benchmark_presets(self):
        if benchmark.histories_loaded(self):
            self.item_id_list_field = columns.history_field(self.config)  # by this name RecBole asks for it, whatever ITEM_ID_FIELD is
            presets(self)

    def _change_feat_format(self):
        change(self)
        if self.benchmark_filename_list is not None and not benchmark.histories_loaded(self):
            benchmark.histories_from_files(self)

    Dataset._load_inter_feat = _load_inter_feat
    SequentialDataset._benchmark_presets = _benchmark_presets
    SequentialDataset._change_feat_format = _change_feat_format
