"""The rule of each key: what its value must be, as (function that says whether it holds, text of the message).

Pairs, no pydantic model: they judge what several layers were merged to, RecBole's keys among it, which stays one flat mapping.
"""

import re
from numbers import Real

from recbole_llm import registry
from recbole_llm.config.properties import short_name_file, short_names
from recbole_llm.config.stages import stages_hold


def integer(low):
    """A rule: an int (not a bool) of at least `low`."""
    return (lambda value: type(value) is int and value >= low), f"must be an integer >= {low}"


def number(low, high=float("inf"), above=False):
    """A rule: a finite number in [low, high], or in (low, high] with `above`."""
    text = f"must be a number {'>' if above else '>='} {low}" + (f" and <= {high}" if high != float("inf") else "")

    def holds(value):
        return type(value) in (int, float) and (low < value if above else low <= value) and value <= high and value != float("inf")

    return holds, text


def choice(*options):
    """A rule: one of `options`, type included."""
    text = f"must be one of {', '.join(map(repr, options))}"
    return (lambda value: any(value is option or (type(value) is str and value == option) for option in options)), text


def of_type(text, *types):
    """A rule: an instance of `types`; `text` names them."""
    return (lambda value: isinstance(value, types)), f"must be {text}"


def optional(rule):
    """A rule that also lets null through."""
    holds, text = rule
    return (lambda value: value is None or holds(value)), f"{text}, or null"


def is_interval(value):
    """Whether RecBole reads numbers between ends in it: "[5,inf)", or several, "(0,1];[3,4)"."""
    for part in str(value).split(";"):
        ends = re.fullmatch(r"\s*[\[(]([^,]+),([^,]+)[\])]\s*", part)
        try:
            if ends is None or not float(ends[1]) <= float(ends[2]):
                return False
        except ValueError:
            return False
    return True


def is_threshold(value):
    """Whether it names one column and a number."""
    return isinstance(value, dict) and len(value) == 1 and all(isinstance(least, Real) for least in value.values())


def is_names(value):
    """Whether it is a list of names: RecBole adds it to a list of its own."""
    return isinstance(value, list) and all(isinstance(name, str) and name for name in value)


def is_templates(value):
    """Whether it is a list of strings."""
    return isinstance(value, list) and all(isinstance(template, str) for template in value)


def is_words(value):
    """Whether it has what templates call an item and its choice, as words."""
    return isinstance(value, dict) and {"verb", "verbed", "item", "items"} <= value.keys() and all(isinstance(word, str) for word in value.values())


def is_fields(value):
    """Whether it lists fields by file, {user: [field, ...], item: [field: name in prompts, ...]}: lists, since the order of a mapping is not kept."""
    if not isinstance(value, dict) or not set(value) <= {"user", "item"}:
        return False
    lists = [fields for fields in value.values() if fields is not None]
    if not all(isinstance(fields, (list, tuple)) for fields in lists):
        return False
    texts = [list(field.items())[0] if isinstance(field, dict) and len(field) == 1 else (field,) for fields in lists for field in fields]
    return all(isinstance(text, str) and text for words in texts for text in words)


def is_field_words(value):
    """Whether it says how fields are written: all four words, each with its place."""
    places = {"user": "{fields}", "item": "{fields}", "field": "{value}", "empty": ""}
    return isinstance(value, dict) and set(value) == set(places) and all(isinstance(value[k], str) and v in value[k] for k, v in places.items())


INTERVAL = (is_interval, "must be an interval such as '[5,inf)', or several, '(0,1];[3,4)'")
ALIASES = optional((is_names, "must be a list of columns, e.g. [item_id_list]"))
POSITIVE, COUNT, FLAG = integer(1), integer(0), choice(True, False)
TEXT, SETTINGS, RATIO = of_type("a string", str), of_type("a mapping", dict), number(0, 1)
SAMPLE = optional(
    (
        lambda value: (type(value) is int and value >= 1) or (type(value) is float and 0 < value < 1),
        "must be an integer >= 1 or a share between 0 and 1",
    )
)
GATE_INPUTS = ("sequence", "item_mean", "token_embedding", "random_embedding", "random", "uniform")  # of iLoRA
RULES = {
    "protocol": optional((registry.is_protocol, "must be one of 'candidates', 'full', 'ctr', or a registered protocol's name")),
    "calibration": choice("platt", "none"),
    "n_candidates": integer(2),
    "rerank_n": integer(2),
    "topk": (
        lambda value: bool(value) and all(type(k) is int and k >= 1 for k in (value if isinstance(value, list) else [value])),
        "must be an integer >= 1 or a list of them, e.g. --topk=1,3",
    ),
    "user_inter_num_interval": optional(INTERVAL),
    "item_inter_num_interval": optional(INTERVAL),
    "val_interval": optional(
        (
            lambda value: isinstance(value, dict) and all(isinstance(v, (list, tuple)) or is_interval(v) for v in value.values()),
            "must be a mapping of number columns to intervals and of token columns to lists, e.g. {rating: '[3,inf)', genre: [war]}",
        )
    ),
    "rm_dup_inter": optional(choice("first", "last")),
    "alias_of_user_id": ALIASES,
    "alias_of_item_id": ALIASES,
    "alias_of_entity_id": ALIASES,
    "alias_of_relation_id": ALIASES,
    "threshold": optional((is_threshold, "must name one column and its least liked value, a number, e.g. {rating: 4}")),
    "use_gpu": FLAG,
    "variant": optional(TEXT),
    "latency_rows": COUNT,
    "permutations": COUNT,
    "candidate_seed": COUNT,
    "seed": COUNT,
    "history_max_len": POSITIVE,
    "MAX_ITEM_LIST_LENGTH": POSITIVE,
    "title_max_tokens": POSITIVE,
    "behaviour_tokens": choice("both", "history", "candidates", "none"),
    "behaviour_token_words": (
        lambda value: isinstance(value, list) and len(value) == 2 and all(isinstance(words, str) for words in value),
        "must be two strings, e.g. [' (', ')'], or ['', ''] for nothing",
    ),
    "behaviour_token_place": choice("after", "before"),
    "projector_form": choice("mlp", "linear"),
    "slot_scale": number(0, above=True),
    "item_separator": (
        lambda value: isinstance(value, str) and value != "" and not value.endswith(" ") and "\\n" not in value,
        "must be text that does not end in a blank (titles begin with one), e.g. ','; a new line is \"\\n\" in double quotes",
    ),
    "user_token": FLAG,
    "move_article": choice(True, False, "released"),
    "answer_bos": FLAG,
    "users_per_list": POSITIVE,
    "history_from": RATIO,
    "history_batch_size": optional(POSITIVE),
    "train_negatives": choice("unseen", "recent"),
    "item_text_field": optional(TEXT),
    "crm_model": TEXT,
    "crm_path": optional(TEXT),
    "crm_epochs": COUNT,
    "crm_config": SETTINGS,
    "llm_path": TEXT,
    "settings_of": optional((lambda value: short_name_file(value) is not None, f"must be one of properties/llm/: {', '.join(short_names())}")),
    "llm_random_weights": FLAG,
    "llm_dtype": choice("auto", "float32", "bfloat16", "float16"),
    "attn_implementation": optional(choice("sdpa", "eager", "flash_attention_2")),
    "llm_quantization": optional(choice("8bit", "4bit")),
    "llm_eval": choice("likelihood", "generate"),
    "likelihood_over": choice("vocabulary", "candidates"),
    "scoring_method": choice("auto", "tree", "cache", "separate"),
    "trust_remote_code": FLAG,
    "lora_r": POSITIVE,
    "lora_alpha": number(0, above=True),
    "lora_dropout": number(0, 0.99),
    "lora_dropout_shared": choice("auto", True, False),
    "lora_target_modules": of_type("a string or a list of strings", str, list, tuple),
    "num_experts": POSITIVE,
    "gate_form": choice("linear", "mlp", "topk", "noisy"),
    "gate_init": choice("paper", "uniform"),
    "gate_input": choice(*GATE_INPUTS, "auto", "target"),
    "gate_top_k": optional(POSITIVE),
    "gate_temperature": number(0, above=True),
    "gate_hidden": POSITIVE,
    "gate_dropout": number(0, 0.99),
    "gate_shared": FLAG,
    "lora_mixing": choice("weight", "output", "none"),
    "crm_history_len": POSITIVE,
    "text_history_len": POSITIVE,
    "crm_history": choice("recent", "relevant"),
    "crm_rows": choice("all", "sample"),
    "text_history": choice("recent", "relevant"),
    "retrieval_encoder": TEXT,
    "history_notes": optional(choice("likes", "ratings", "none")),
    "train_sample_stratified": FLAG,
    "answer_words": (
        lambda value: isinstance(value, list) and len(value) == 2 and all(isinstance(word, str) for word in value),
        "must be two words, e.g. ['Yes', 'No']",
    ),
    "recipe": optional(choice("paper", "released")),
    "lr_schedule": choice("cosine", "linear"),
    "lr_epochs": optional(POSITIVE),
    "selection": choice("valid_metric", "generation"),
    "curriculum": choice("linear", "none"),
    "stages": optional((stages_hold, "must be a list of {name, until, trains: [adapter, projector, router]} with rising `until`, the last 1")),
    "prompt_words": (is_words, "must be a mapping of verb, verbed, item and items to words; it replaces the whole of another"),
    "prompt_templates": (lambda value: is_templates(value) and value != [], "must be a list of one or more templates, each a string"),
    "click_templates": (
        lambda value: isinstance(value, dict) and all(map(is_templates, value.values())),
        "must be a mapping of ctr and candidates to lists of templates, each a string",
    ),
    "note_words": SETTINGS,
    "prompt_fields": optional(
        (is_fields, "must be a mapping of user and item to lists of fields of these files, e.g. {user: [age, gender], item: [class: genre]}")
    ),
    "field_words": (
        is_field_words,
        "must be a mapping of user and item to text with {fields}, field to text with {value} (and {name}), empty to a word",
    ),
    "value_words": (
        lambda value: isinstance(value, dict) and all(isinstance(words, dict) for words in value.values()),
        "must be a mapping of fields to words for their values, e.g. {gender: {F: female, M: male}}",
    ),
    "epochs": COUNT,
    "train_sample_size": SAMPLE,
    "valid_sample_size": optional(POSITIVE),
    "test_sample_size": optional(POSITIVE),
    "train_batch_size": POSITIVE,
    "eval_batch_size": POSITIVE,
    "accumulation_steps": POSITIVE,
    "learning_rate": number(0, above=True),
    "projector_lr_scale": number(0),
    "router_lr_scale": number(0),
    "warmup_ratio": RATIO,
    "min_lr_ratio": RATIO,
    "weight_decay": number(0),
    "stopping_step": COUNT,
    "max_steps": optional(POSITIVE),
    "mixed_precision": choice("auto", "no", "bf16", "fp16"),
    "gradient_checkpointing": FLAG,
    "auto_batch_size": FLAG,
    "torch_compile": of_type("True, False or a backend's name", bool, str),
    "prefetch_steps": COUNT,
    "peak_tflops": optional(number(0, above=True)),
    "save_steps": optional(POSITIVE),
    "save_total_limit": POSITIVE,
    "resume": optional(TEXT),
    "show_progress": FLAG,
    "data_path": TEXT,
    "source": optional(SETTINGS),
    "offline": FLAG,
    "result_dir": TEXT,
    "checkpoint_dir": TEXT,
    "load_col": optional(SETTINGS),
    "eval_args": SETTINGS,
    "train_neg_sample_args": optional(SETTINGS),
    "valid_metric": TEXT,
    "clip_grad_norm": optional(SETTINGS),
}
