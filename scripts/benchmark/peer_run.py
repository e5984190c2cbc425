"""A plain training script to compare segframe's runs with: Lightning, smp, albumentations and torchmetrics, each used
as its documentation shows.

PYTHONPATH=.:scripts python -m benchmark.peer_run --root <images/, masks/> --steps 20 --report clock.json
"""

import argparse
import json
import os
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytorch_lightning as pl
import segmentation_models_pytorch as smp
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from torchmetrics.classification import MulticlassJaccardIndex

from benchmark.clock import Clock
from benchmark.peer_networks import PlainFCN8s

os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")  # its import would go online
import albumentations as A
from albumentations.pytorch import ToTensorV2

NUM_CLASSES = 11
VOID = 255
DIVISORS = {"deeplabv3plus": 16, "unet": 32, "fcn8s": 16}
"""Networks, and the sides of whose images must be multiples of so many pixels."""


class CamVid(Dataset[tuple[Tensor, Tensor]]):
    """Images and masks as float tensors (3, H, W) and int64 (H, W)."""

    def __init__(self, root: Path, split: str, transform: A.Compose) -> None:
        self.images = sorted((root / "images" / split).iterdir())
        self.masks = sorted((root / "masks" / split).iterdir())
        self.transform = transform

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        pixels = cv2.imread(str(self.images[index]))
        assert pixels is not None
        image = cv2.cvtColor(pixels, cv2.COLOR_BGR2RGB)
        mask = np.array(Image.open(self.masks[index]))
        mask[mask >= NUM_CLASSES] = VOID
        item = self.transform(image=image, mask=mask)
        return item["image"], item["mask"].long()


def build_network(name: str, encoder: str) -> Any:
    """A network with full-size logits, from random weights; its encoder is called `encoder`."""
    if name == "fcn8s":
        return PlainFCN8s(NUM_CLASSES)
    if name == "unet":
        return smp.Unet(encoder, encoder_weights=None, classes=NUM_CLASSES)
    rates = (6, 12, 18)
    return smp.DeepLabV3Plus(encoder, encoder_weights=None, classes=NUM_CLASSES, decoder_atrous_rates=rates)


class Module(pl.LightningModule):
    """A network with cross-entropy, SGD or AdamW and the poly schedule; logs the loss, validates by Jaccard."""

    def __init__(self, args: argparse.Namespace) -> None:
        super().__init__()
        self.args = args
        self.model = build_network(args.network, args.encoder)
        if args.weights:  # of timm's classifier; a timm encoder is smp's `model.encoder.model`
            left_out = self.model.encoder.model.load_state_dict(torch.load(args.weights), strict=False)
            assert not left_out.missing_keys
        self.iou = MulticlassJaccardIndex(NUM_CLASSES, ignore_index=VOID)

    def loss(self, batch: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        """Return the loss and the logits."""
        logits = self.model(batch[0])
        return F.cross_entropy(logits, batch[1], ignore_index=VOID), logits

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        loss, _ = self.loss(batch)
        self.log("train/loss", loss, prog_bar=True)
        return loss

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        loss, logits = self.loss(batch)
        self.iou.update(logits.argmax(1), batch[1])
        self.log("val/loss", loss)
        self.log("val/miou", self.iou)

    def configure_optimizers(self) -> Any:
        args, encoder = self.args, [*self.model.encoder.parameters()]
        rest = [p for name, p in self.model.named_parameters() if not name.startswith("encoder.")]
        groups = [{"params": encoder, "lr": args.encoder_factor * args.lr}, {"params": rest}]
        optimizer: torch.optim.Optimizer = torch.optim.SGD(groups, lr=args.lr, momentum=0.9, weight_decay=1e-4)
        if args.optimizer == "adamw":
            optimizer = torch.optim.AdamW(groups, lr=args.lr, weight_decay=0.01)
        scheduler = torch.optim.lr_scheduler.PolynomialLR(optimizer, args.steps, power=0.9)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}


def main() -> None:
    """Train once and validate at the end."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--root", type=Path, required=True)
    parser.add_argument("--steps", type=int, required=True)
    parser.add_argument("--batch", type=int, required=True)
    parser.add_argument("--crop", type=int, nargs=2, required=True)
    parser.add_argument("--workers", type=int, required=True)
    parser.add_argument("--network", choices=tuple(DIVISORS), default="deeplabv3plus")
    parser.add_argument("--encoder", default="resnet18", help="of deeplabv3plus and unet; fcn8s has VGG-16")
    parser.add_argument("--weights", type=Path, help="ImageNet weights of the encoder, a timm network")
    parser.add_argument("--mean", type=float, default=None, help="of all channels, and --std: default ImageNet's")
    parser.add_argument("--std", type=float, default=None)
    parser.add_argument("--optimizer", choices=("sgd", "adamw"), default="sgd")
    parser.add_argument("--lr", type=float, default=0.01)
    parser.add_argument("--encoder-factor", type=float, default=1.0, help="of the encoder's learning rate")
    parser.add_argument("--seed", type=int)
    parser.add_argument("--split", default="val", help="that is evaluated at the end")
    parser.add_argument("--precision", default="32-true")
    parser.add_argument("--accelerator", default="auto")
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--report", type=Path, required=True)
    args = parser.parse_args()
    if args.seed is not None:
        pl.seed_everything(args.seed, workers=True)
    statistics = {} if args.mean is None else {"mean": [args.mean / 255] * 3, "std": [args.std / 255] * 3}
    finish = [A.Normalize(**statistics), ToTensorV2()]
    train = A.Compose(
        [
            A.RandomScale((-0.5, 1.0), p=1),
            A.PadIfNeeded(*args.crop, border_mode=cv2.BORDER_CONSTANT, fill=0, fill_mask=VOID),
            A.RandomCrop(*args.crop),
            A.HorizontalFlip(p=0.5),
            A.ColorJitter(brightness=0.2, contrast=0.2, saturation=0.2, hue=0.05, p=0.5),
            *finish,
        ]
    )
    padded = A.PadIfNeeded(
        min_height=None,
        min_width=None,
        pad_height_divisor=DIVISORS[args.network],
        pad_width_divisor=DIVISORS[args.network],
        fill=0,
        fill_mask=VOID,
    )
    workers = {
        "num_workers": args.workers,
        "persistent_workers": args.workers > 0,
        "pin_memory": torch.cuda.is_available() and args.accelerator != "cpu",
    }
    trainer = pl.Trainer(
        max_steps=args.steps,
        max_epochs=-1,
        precision=args.precision,
        accelerator=args.accelerator,
        devices=1,
        default_root_dir=args.folder,
        # Once, at the end.
        val_check_interval=args.steps,
        check_val_every_n_epoch=None,
        num_sanity_val_steps=1,
        callbacks=[Clock(str(args.report))],
    )
    data = DataLoader(CamVid(args.root, "train", train), args.batch, shuffle=True, drop_last=True, **workers)
    val = DataLoader(CamVid(args.root, args.split, A.Compose([padded, *finish])), 1, **workers)
    trainer.fit(Module(args), data, val)
    report = json.loads(args.report.read_text()) | {"miou": trainer.callback_metrics["val/miou"].item()}
    args.report.write_text(json.dumps(report))


if __name__ == "__main__":
    main()
