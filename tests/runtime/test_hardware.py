"""What the open settings take on machines with and without bfloat16 instructions."""

import os
import subprocess
import sys

import pytest
import torch

from recbole_llm.llm import loading as loading
from recbole_llm.runtime import hardware
from tests import tiny
from tests.llm.test_loading import settings


@pytest.fixture
def cpu(monkeypatch):
    """Makes this CPU one with the given instructions."""

    def become(*instructions):
        found = {"avx2": True, "avx512_bf16": False, "amx_bf16": False} | dict.fromkeys(instructions, True)
        monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: found, raising=False)

    return become


@pytest.mark.parametrize("instruction, dtype", [("avx512_bf16", torch.bfloat16), ("amx_bf16", torch.bfloat16), ("avx512_f", torch.float32)])
def test_a_cpu_takes_bf16_where_it_has_instructions_for_it_and_attention_by_pass(cpu, tmp_path, instruction, dtype):
    cpu(instruction)
    folder = tiny.write_llm(tmp_path, dtype="bfloat16")
    llm = loading.load_llm(settings(folder, llm_dtype="auto"))
    assert (llm.dtype, llm.config._attn_implementation) == (dtype, "cpu_by_pass")
    given = loading.load_llm(settings(folder, llm_dtype="float32", attn_implementation="eager"))
    assert (given.dtype, given.config._attn_implementation) == (torch.float32, "eager")  # what is set stays


def test_a_gpu_takes_weights_as_stored_and_transformers_choice_of_attention(cpu):
    cpu("avx512_bf16")
    options = loading._options(settings("x", device="cuda:0", llm_dtype="auto"))
    assert options["dtype"] == "auto" and "attn_implementation" not in options


@pytest.mark.parametrize("supported", [True, False])
def test_an_earlier_torch_is_asked_for_avx512_bf16_alone(monkeypatch, supported):
    monkeypatch.delattr(torch.cpu, "get_capabilities", raising=False)
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: supported)
    assert hardware.computes_bf16() is supported


@pytest.mark.parametrize("given, expected", [(None, "128"), ("7", "7")])
def test_importing_the_package_bounds_onednns_kernels_unless_the_environment_does(given, expected):
    env = {name: value for name, value in os.environ.items() if name != hardware.KERNEL_CACHE}
    code = f"import os, recbole_llm; print(os.environ['{hardware.KERNEL_CACHE}'])"
    env |= {hardware.KERNEL_CACHE: given} if given else {}
    printed = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=True).stdout
    assert printed.split()[-1] == expected
