"""Search hyperparameters: trials are training runs, whose settings are drawn from ranges."""

from segframe.cli.main import run

if __name__ == "__main__":
    run("search")
