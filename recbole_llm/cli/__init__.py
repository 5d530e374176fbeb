"""Commands: the words of a command line in, calls of the package out; each module has ``main(arguments) -> exit code``."""

STOPPED = 130  # the exit code that shells give a command which Ctrl-C ended

# command -> (module with `main`, whether it takes the command's name as its first argument, what it does)
COMMANDS = {
    "run": ("recbole_llm.cli.main", False, "train and test models: --model=iLoRA --dataset=ml-100k [--key=value ...]; run may be left out"),
    "compare": ("recbole_llm.leaderboard.__main__", True, "A.json B.json: two result files, row by row"),
    "recommend": ("recbole_llm.cli.recommend", False, "RUN --user=ID --k=10: the best items of users or of histories typed by hand"),
    "data": ("recbole_llm.data.__main__", False, "check NAME: what a dataset holds and what a run makes of it; convert NAME"),
    "analysis": ("recbole_llm.analysis.__main__", False, "NAME --dataset=ml-100k: a figure of the papers (experts, gradients, gate, shots ...)"),
    "reproduce": ("recbole_llm.reproduce", False, "PAPER --dataset=lastfm-llara: a paper's main table beside its published numbers"),
    "report": ("recbole_llm.leaderboard.__main__", True, "FOLDER: the leaderboards of a folder of result files"),
    "completion": ("recbole_llm.cli.completion", False, "a script that completes these commands in bash and zsh"),
}
