"""Configuration of a gated adapter, and the check that the installed PEFT is the one this package was written for."""

from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version

PEFT_RANGE = "peft>=0.21,<0.22"


def check_peft(installed: str | None = None) -> None:
    """Raise ImportError unless PEFT is in `PEFT_RANGE` and has the internals that the adapters replace."""
    if installed is None:
        try:
            installed = version("peft")
        except PackageNotFoundError:
            raise ImportError(f"gated adapters need PEFT: pip install '{PEFT_RANGE}'") from None
    if installed.split(".")[:2] != ["0", "21"]:
        raise ImportError("gated adapters replace internals of PEFT that change between releases: they need "
                          f"{PEFT_RANGE}, found {installed}; pip install '{PEFT_RANGE}'")
    from peft import mapping
    from peft.tuners.lora import LoraModel
    from peft.tuners.lora.layer import LoraLayer, LoraVariant
    from peft.tuners.tuners_utils import BaseTuner

    needed = {
        LoraModel: ("_create_and_replace", "_check_merge_allowed", "_enable_peft_forward_hooks", "prefix"),
        BaseTuner: ("_pre_injection_hook", "delete_adapter", "merge_adapter"),
        LoraLayer: ("update_layer", "_cast_input_dtype", "set_scale", "get_base_layer"),
        LoraVariant: ("forward", "merge_safe", "merge_unsafe", "supports_lora_conversion"),
        mapping: ("PEFT_TYPE_TO_CONFIG_MAPPING", "PEFT_TYPE_TO_TUNER_MAPPING", "PEFT_TYPE_TO_PREFIX_MAPPING"),
    }
    missing = [f"{owner.__name__}.{name}" for owner, names in needed.items() for name in names
               if not hasattr(owner, name)]
    if missing:
        raise ImportError(f"peft {installed} lacks {', '.join(missing)}, which gated adapters replace; "
                          f"pip install --force-reinstall '{PEFT_RANGE}'")


check_peft()

from peft import LoraConfig  # noqa: E402  (only after the check, which explains a failure)

PEFT_TYPE = "GATED_LORA"
MIXINGS = ("split", "weight", "output")
# Options of LoraConfig that redefine the slots, or what is computed from them.
UNSUPPORTED = ("use_dora", "use_qalora", "use_bdlora", "lora_bias", "alora_invocation_tokens", "arrow_config",
               "kasa_config", "monteclora_config", "velora_config", "megatron_config", "layer_replication",
               "target_parameters")


@dataclass
class GatedLoraConfig(LoraConfig):
    """`LoraConfig` with experts; every other option keeps PEFT's meaning.

    Attributes:
        num_experts: K experts of rank r/K ("split", iLoRA) or N meta-LoRAs of rank r ("weight", "output": RecLoRA)
        mixing: "split" | "weight" | "output", see `recbole_llm.adapter.functional`

    `lora_alpha` / r is PEFT's scaling. With "split", expert k is scaled by alpha / (r/K), as the paper has it, so that
    uniform gates (1/K) give exactly LoRA at alpha / r.

    Raises:
        ValueError: num_experts < 1, r not divisible by K, unknown mixing, or an option that gated adapters do not have
    """

    num_experts: int = field(default=1, metadata={"help": "experts (split) or meta-LoRAs (weight, output)"})
    mixing: str = field(default="split", metadata={"help": "split (iLoRA), weight or output (RecLoRA)"})

    def __post_init__(self) -> None:
        super().__post_init__()
        self.peft_type = PEFT_TYPE
        if not isinstance(self.num_experts, int) or self.num_experts < 1:
            raise ValueError(f"num_experts={self.num_experts!r}: must be an integer of 1 or more")
        if self.mixing not in MIXINGS:
            raise ValueError(f"mixing={self.mixing!r}: must be one of {', '.join(MIXINGS)}")
        for r in (self.r, *(self.rank_pattern or {}).values()):
            check_rank(r, self.num_experts, self.mixing)
        if self.init_lora_weights not in (True, False, "gaussian"):
            raise ValueError(f"init_lora_weights={self.init_lora_weights!r}: gated adapters start from True or "
                             "'gaussian' (B = 0); initialisations that change the base weight fit one LoRA, not a gate")
        used = [name for name in UNSUPPORTED if getattr(self, name, None)]
        if used:
            raise ValueError(f"{', '.join(used)}: not available for gated adapters; leave these options unset")


def check_rank(r: int, num_experts: int, mixing: str) -> None:
    """Raise ValueError unless r >= 1 and, when experts share it, K divides r."""
    if r < 1:
        raise ValueError(f"lora_r={r}: must be 1 or more")
    if mixing == "split" and r % num_experts:
        raise ValueError(f"lora_r={r} is not divisible by num_experts={num_experts}: each expert has rank r/K; "
                         f"choose lora_r as a multiple of {num_experts}")
