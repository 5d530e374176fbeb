"""What RecBole's filters leave of a dataset: rows before and after each, and an error that names them where none is left."""

STEPS = {  # method of Dataset -> the keys that make it drop rows
    "_filter_nan_user_or_item": (),
    "_remove_duplication": ("rm_dup_inter",),
    "_filter_by_field_value": ("val_interval",),
    "_filter_inter_by_user_or_item": ("filter_inter_by_user_or_item",),
    "_filter_by_inter_num": ("user_inter_num_interval", "item_inter_num_interval"),
}


def count_steps(dataset, name: str, step) -> None:
    """Run one of RecBole's filters and note the rows before and after."""
    feats = [feat for feat in ("inter", "user", "item") if getattr(dataset, f"{feat}_feat", None) is not None]
    before = {feat: len(getattr(dataset, f"{feat}_feat")) for feat in feats}
    example = {feat: getattr(dataset, f"{feat}_feat").head(1) for feat in feats}
    step(dataset)
    counts = vars(dataset).setdefault("_counts", [])
    counts += [(feat, name, before[feat], len(getattr(dataset, f"{feat}_feat")), example) for feat in feats]


def check_left(dataset) -> None:
    """Refuse a dataset of which filters leave nothing.

    Raises:
        ValueError: no row is left; names the dataset, each filter that dropped rows, and the rows before and after.
    """
    for feat in ("inter", "user", "item"):
        frame = getattr(dataset, f"{feat}_feat", None)
        if frame is None or not frame.empty:
            continue
        raise ValueError(
            f"{dataset.dataset_name}: no row of .{feat} is left: {'; '.join(rows_dropped(dataset, feat))}. Loosen what drops the rows, or set "
            f"it to null"
        )


def rows_dropped(dataset, feat: str) -> list[str]:
    """What each filter left of the rows of "inter", "user" or "item", of those that dropped some."""
    told = []
    for which, name, before, after, example in vars(dataset).get("_counts", ()):
        if which != feat or before == after:
            continue
        values = {key: dataset.config[key] for key in STEPS[name]}
        keys = [f"{key}: {value}" for key, value in values.items() if value not in (None, False, "[0,inf)")]
        told.append(f"{' and '.join(keys) or 'rows without ids'} left {after} of {before} rows")
        if name == "_filter_inter_by_user_or_item":
            told[-1] += _differing_ids(dataset, example)
    return told


def _differing_ids(dataset, example) -> str:
    told = []
    for feat, key in (("user", dataset.uid_field), ("item", dataset.iid_field)):
        if feat in example:
            inter, own = (str(example[name][key].iloc[0]) for name in ("inter", feat))
            told.append(f"{feat} {inter!r} in .inter and {own!r} in .{feat}")
    return f" (e.g. {'; '.join(told)})"
