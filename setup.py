"""Packaging: `pip install -e .` from a checkout, or a wheel that carries the top-level `properties/` inside it.

RecBole 1.2.1 requires ray<=2.6.3, which has no wheel for Python 3.12, so there it must be installed with
`pip install --no-deps recbole==1.2.1`. What RecBole really needs is listed here for every Python; its ray is not.
"""

from pathlib import Path

from setuptools import find_namespace_packages, setup

LLM = [
    "torch>=2.6,<2.14",
    "transformers>=5,<6",
    "peft>=0.21,<0.22",
    "accelerate",
    "safetensors",
    "tokenizers",
    "gguf>=0.19,<1",
    "filelock",
    "jinja2>=3",
]
RECBOLE = [
    'recbole==1.2.1; python_version < "3.12"',
    "numpy>=1.24",
    "scipy>=1.10",
    "pandas>=2.0,<4",
    "tqdm>=4.48.2",
    "colorlog==4.7.2",
    "colorama==0.4.4",
    "scikit-learn>=1.2",
    "pyyaml>=5.1",
    "tensorboard>=2.5",
    "thop>=0.1.1.post2207130030",
    'setuptools; python_version >= "3.12"',  # thop imports distutils, which setuptools provides there
    "tabulate>=0.8.10",
    "plotly>=4.0",
    "texttable>=0.9",
    "psutil>=5.9",
]
ROOT = Path(__file__).parent
PROPERTIES = [ROOT / "properties", *sorted(path for path in (ROOT / "properties").rglob("*") if path.is_dir())]
PROPERTIES = [".".join(("recbole_llm", *path.relative_to(ROOT).parts)) for path in PROPERTIES]
VERSION = (ROOT / "recbole_llm/version.py").read_text(encoding="utf-8").rpartition("= ")[2].strip().strip('"')
EXTRAS = {
    "test": ["pytest", "pytest-timeout", "pytest-xdist", "hypothesis", "ruff", "setuptools", "sentence-transformers", "hyperopt"],
    "quantized": ["bitsandbytes"],
    "encoder": ["sentence-transformers"],
    "tune": ["hyperopt"],
    "docs": ["mkdocs-material>=9.6,<10", "mkdocstrings[python]>=1,<2"],
}

setup(
    name="recbole_llm",
    version=VERSION,
    description="LLM recommenders (LLaRA, iLoRA, RecLoRA, TALLRec, CoLLM, E4SRec, LlamaRec) as a plugin for RecBole 1.2.1",
    long_description=(ROOT / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    author="recbole_llm developers",
    license="MIT",
    license_files=["LICENSE"],
    keywords=["recommender systems", "large language models", "sequential recommendation", "LoRA", "RecBole"],
    project_urls={
        "RecBole": "https://github.com/RUCAIBox/RecBole",
        "LLaRA": "https://arxiv.org/abs/2312.02445",
        "iLoRA": "https://arxiv.org/abs/2408.10159",
        "RecLoRA": "https://arxiv.org/abs/2408.03533",
    },
    classifiers=[
        "Development Status :: 3 - Alpha",
        "Intended Audience :: Science/Research",
        "Operating System :: OS Independent",
        "Programming Language :: Python :: 3",
        "Programming Language :: Python :: 3.11",
        "Programming Language :: Python :: 3.12",
        "Topic :: Scientific/Engineering :: Artificial Intelligence",
    ],
    python_requires=">=3.11",
    install_requires=[*LLM, *RECBOLE, "statsmodels"],
    extras_require=EXTRAS,
    packages=find_namespace_packages(str(ROOT), include=["recbole_llm", "recbole_llm.*"]) + PROPERTIES,
    package_dir={"recbole_llm.properties": "properties"},
    package_data={
        **{package: ["*.yaml"] for package in PROPERTIES},
        "recbole_llm.leaderboard.render.template": ["*.html", "*.css", "*.js"],
    },
    entry_points={"console_scripts": ["recbole-llm=recbole_llm.__main__:main"]},
)
