"""The folder of a run: its settings, the positions kept of it, and a lock for who writes there.

    <checkpoint_dir>/<model>-<dataset>-<time>-<pid>-<n>/
        run.json          the settings that shape the weights, their hash, and the hashes of the data and of the code
        lock              held by the process that writes here, whose name it holds
        step-00000120/    the last ``save_total_limit`` positions: weights, optimizer, state (checkpoint.py)
        best-00000100/    the weights of the best validation, now and when a kept step was written

Files are safetensors, JSON and YAML; resume.py finds the run to go on with. The lock is fcntl's: filelock before 4 empties
the file that names the owner, and takes a file system without locks for a lock that another holds.
"""

import fcntl
import hashlib
import json
import logging
import os
import shutil
import time
from pathlib import Path

from recbole_llm.config.values import NON_RESULT_KEYS, REPORTING_KEYS, plain_values, read_yaml
from recbole_llm.results import provenance
from recbole_llm.runtime.files import put_all_back, remove_folder, whole_folder, write_text
from recbole_llm.training.checkpoint_files import CONFIG, STATE, DamagedCheckpoint, read_state

RUN, LOCK = "run.json", "lock"


def hashed_settings(config):
    """The settings that shape a run's weights."""
    return _hashed_settings(plain_values(config))


def _hashed_settings(values):
    left_out = {*NON_RESULT_KEYS, *REPORTING_KEYS, "worker"}  # an LLM's workers only tokenise; RecBole's draw negatives
    if values.get("recipe") == "released":  # RecLoRA's selects weights on the test rows
        left_out.remove("test_sample_size")
    return {key: value for key, value in values.items() if key not in left_out}


def settings_hash(config):
    """sha256 of :func:`hashed_settings`."""
    return _hash(hashed_settings(config))


def _hash(settings):
    return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()


def input_hashes(config):
    """Hashes of what shapes a run's weights besides its settings."""
    return {"data": provenance.data_hash(config), "code": provenance.code_hash(True)}


class Run:
    """The folder of one run, locked while it is open."""

    def __init__(self, folder):
        self.folder = Path(folder)
        self._lock = None

    @classmethod
    def create(cls, folder, config):
        """Make a new run's folder."""
        run = cls(folder)
        run.folder.mkdir(parents=True)
        run.lock()
        run._write({"started": time.time_ns(), "hash": settings_hash(config), "settings": hashed_settings(config), **input_hashes(config)})
        return run

    def _write(self, record):
        write_text(self.folder / RUN, json.dumps(record, indent=1, sort_keys=True))

    def set_code_version(self, code):
        """Name this code in run.json: a run belongs to the last code that wrote to it, and to no earlier one."""
        record = self.record()
        if record and record.get("code") != code and not self.finished():
            self._write({**record, "code": code})

    def lock(self):
        """Keep other processes from writing here.

        Raises:
            BlockingIOError: another process is writing here.
        """
        self._lock = open(self.folder / LOCK, "a+")  # noqa: SIM115  (closed with the run)
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self._lock.seek(0)
            owner = self._lock.read().strip() or "another process"
            self.close()
            raise BlockingIOError(f"{self.folder} is being written by {owner}; let it end or start a new run") from None
        except OSError as error:  # NFS or Lustre mounted without locks
            logging.getLogger().warning(
                f"{self.folder} lies on a file system without locks ({error.strerror}): see to it that no other run "
                "writes there"
            )
        self._lock.truncate(0)
        self._lock.write(f"process {os.getpid()} on {os.uname().nodename}")
        self._lock.flush()

    def close(self):
        """Give the lock back."""
        if self._lock is not None:
            self._lock.close()
            self._lock = None

    def record(self):
        """run.json; where it was cut or edited, what the newest whole step folder says; else an empty record."""
        try:
            record = json.loads((self.folder / RUN).read_text(encoding="utf-8"))
            if record["hash"] == _hash(record["settings"]) and isinstance(record["started"], int):
                settings = _hashed_settings(record["settings"])  # an earlier version may have counted more keys as such
                return {**record, "settings": settings, "hash": _hash(settings)}
        except (OSError, ValueError, KeyError, TypeError):
            pass
        return self._rebuilt()

    def _rebuilt(self):
        damaged = f"{self.folder / RUN} is damaged: it was cut or edited after it was written"
        for folder in self.steps():
            try:
                read_state(folder)
            except DamagedCheckpoint:
                continue
            settings = _hashed_settings(read_yaml(folder / CONFIG))
            logging.getLogger().warning(f"{damaged}; the settings in {folder} are taken instead")
            return {"started": folder.stat().st_mtime_ns, "hash": _hash(settings), "settings": settings}
        logging.getLogger().warning(f"{damaged}, and no checkpoint beside it can be read: the run is passed over")
        return {}

    def finished(self):
        """Whether training had ended; False where no step folder can say so."""
        try:
            found = self.readable()
        except DamagedCheckpoint:
            return False
        return bool(found and found[1]["finished"])

    def steps(self):
        """Step folders, newest first."""
        return sorted((p for p in self.folder.glob("step-*") if p.is_dir()), reverse=True)

    def readable(self):
        """(folder, state) of the newest whole step folder; None where there are no step folders at all.

        Damaged ones are named in a warning and skipped.

        Raises:
            DamagedCheckpoint: none is whole.
        """
        damaged = []
        for folder in self.steps():
            try:
                return folder, read_state(folder)
            except DamagedCheckpoint as error:
                logging.getLogger().warning(f"{error}; the checkpoint before it is used")
                damaged.append(str(error))
        if damaged:
            raise DamagedCheckpoint(
                f"no checkpoint of {self.folder} can be read: {'; '.join(damaged)}. Start again without --resume"
            )
        return None

    def restore_best(self, step):
        """Make sure that the best weights which a step folder names can be read; False where they are lost.

        They are put back from the step folder of the same step if need be.

        Raises:
            DamagedCheckpoint: they are lost and training had finished, so that no validation to come can name others.
        """
        state = json.loads((step / STATE).read_text(encoding="utf-8"))
        name = state["best"]
        if name is None:
            return True
        try:
            read_state(self.folder / name)
        except DamagedCheckpoint as error:
            twin = self.folder / name.replace("best-", "step-")
            try:
                read_state(twin)
            except DamagedCheckpoint:
                if state["finished"]:
                    raise DamagedCheckpoint(f"{error}. The best weights are lost: start again without --resume") from None
                logging.getLogger().warning(f"{error}. The best weights are lost; the validations to come name new ones")
                return False
            logging.getLogger().warning(f"{error}; the best weights are put back from {twin}")
            with whole_folder(self.folder / name) as aside:
                shutil.copytree(twin, aside, dirs_exist_ok=True)
        return True

    def sweep(self):
        """Put back the folders that a killed process was replacing, and remove what it left half-written; only with the lock."""
        put_all_back(self.folder)
        for left in self.folder.glob(".*"):
            shutil.rmtree(left) if left.is_dir() else left.unlink()

    def prune(self, limit, best):
        """Keep the newest ``limit`` step folders, the best one called ``best``, and those that the kept steps name.

        A step folder is of use with its own best weights alone: the newest may be damaged one day.
        """
        steps = self.steps()
        named = {best, *map(best_of, steps[:limit])}
        for folder in steps[limit:]:
            remove_folder(folder)
        for folder in self.folder.glob("best-*"):
            if folder.name not in named:
                remove_folder(folder)


def best_of(step):
    """Name of the best folder in a step folder's state; None where it names none or cannot be read."""
    try:
        return json.loads((step / STATE).read_text(encoding="utf-8"))["best"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
