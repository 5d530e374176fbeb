"""RecBole's pickled files: checkpoints become plain data, pickled datasets are neither written nor read."""

from importlib import import_module

from recbole_llm.compat.patching import rebind, rewrite


def plain_checkpoints():
    """trainer.py:323, 583, quick_start.py:250: checkpoints hold a pickled Config, and DIN's a pickled module.

    Cause: torch 2.6 loads weights only, and rightly: unpickling a file runs the code it names. Effect without: training
    ends in UnpicklingError when it loads its best model. Checkpoints are saved as plain data, see `training.recbole_checkpoints`,
    and read again by `training.load_run`.
    """
    from recbole_llm.training import load_run, recbole_checkpoints

    trainer = import_module("recbole.trainer.trainer")
    trainer.save_plain, trainer.load_plain = recbole_checkpoints.save_plain, recbole_checkpoints.load_plain
    save = "save_plain(state, "
    rewrite(trainer.Trainer, "_save_checkpoint", ("torch.save(state, ", save, 1), (", pickle_protocol=4", "", 1))
    rewrite(trainer.PretrainTrainer, "save_pretrained_model", ("torch.save(state, ", save, 1))
    rewrite(trainer.DecisionTreeTrainer, "_save_checkpoint", ("torch.save(state, ", save, 1))
    for name in ("resume_checkpoint", "evaluate"):
        rewrite(trainer.Trainer, name, ("torch.load(", "load_plain(", 1))
    rebind(import_module("recbole.quick_start.quick_start").load_data_and_model, load_run.load_data_and_model)


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
