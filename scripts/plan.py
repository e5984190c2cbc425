"""Plan a training: an experiment file that follows from the data, this machine and a budget of time."""

from segframe.cli.main import run

if __name__ == "__main__":
    run("plan")
