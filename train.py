"""Train a segmentation model: python train.py model=fcn8s data=voc"""

from segframe.cli.main import run

if __name__ == "__main__":
    run("train")
