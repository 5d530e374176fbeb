"""python run_recbole_llm.py --model=iLoRA --dataset=ml-100k [--config_files="a.yaml b.yaml"] [--key=value ...]"""

import sys

from recbole_llm.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
