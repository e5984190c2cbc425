"""The command line of check_data: the settings of the dataset in data.root if none is chosen."""

import sys
from pathlib import Path
from shlex import quote

from segframe.cli.argv import FLAGS


def check_data_arguments(argv: list[str]) -> list[str]:
    """argv with the settings of what data.root holds, unless it has data=...; prints them as a command that trains."""
    values = dict(word.partition("=")[::2] for word in argv if "=" in word)
    if "data" in values or "data.root" not in values or {*FLAGS} & {*argv}:
        return argv
    from segframe.data.recognition import recognize  # imports torch, which --help does without

    root = values["data.root"].strip("'\"")
    given = [word for word in argv if word.startswith("data.dataset.")]
    what, settings = recognize(Path(root), given)
    own = [word for word in argv if word.startswith("data.")]
    words = [settings[0], *own, *settings[1:]]
    program = "segframe train" if Path(sys.argv[0]).stem == "segframe" else "python train.py"
    print(f"{root}: {what}\nto train on it:\n  {program} {' '.join(map(quote, words))}\n", flush=True)
    return [*words, *(word for word in argv if word not in own)]
