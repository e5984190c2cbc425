"""Public names of parts by the names that checkpoints and config.yaml files of older versions hold."""

from typing import Any

RENAMED = {
    "segframe.backbones.alexnet.AlexNetFC": "segframe.models.backbones.AlexNetFC",
    "segframe.backbones.resnet.ResNet": "segframe.models.backbones.ResNet",
    "segframe.backbones.timm.Timm": "segframe.models.backbones.TimmBackbone",
    "segframe.backbones.unet.UNetEncoder": "segframe.models.backbones.UNetEncoder",
    "segframe.backbones.vgg.VGG": "segframe.models.backbones.VGG",
    "segframe.backbones.vgg.VGG16FC": "segframe.models.backbones.VGG16FC",
    "segframe.backbones.vgg_atrous.VGG16Atrous": "segframe.models.backbones.VGG16Atrous",
    "segframe.backbones.xception.Xception": "segframe.models.backbones.Xception",
    "segframe.callbacks.ConfusionMatrixPicture": "segframe.training.callbacks.ConfusionMatrixPicture",
    "segframe.callbacks.Curves": "segframe.training.callbacks.TrainingCurves",
    "segframe.callbacks.FinalReport": "segframe.training.callbacks.FinalReport",
    "segframe.callbacks.HParams": "segframe.training.callbacks.HParams",
    "segframe.callbacks.LoaderReport": "segframe.training.callbacks.DataloaderReport",
    "segframe.callbacks.ProgressBar": "segframe.training.callbacks.ProgressBar",
    "segframe.callbacks.ValidationImages": "segframe.training.callbacks.ValidationImages",
    "segframe.data.camvid.CamVid": "segframe.data.CamVid",
    "segframe.data.color.ColorMatrixJitter": "segframe.data.ColorMatrixJitter",
    "segframe.data.folder.Folder": "segframe.data.Folder",
    "segframe.data.shapes.Shapes": "segframe.data.Shapes",
    "segframe.data.transforms.RandomScaleCrop": "segframe.data.RandomScaleCrop",
    "segframe.data.voc.VOC": "segframe.data.VOC",
    "segframe.heads.deeplab.DeepLabV3": "segframe.models.heads.DeepLabV3",
    "segframe.heads.deeplab.DeepLabV3Plus": "segframe.models.heads.DeepLabV3Plus",
    "segframe.heads.fcn.DilatedFCN": "segframe.models.heads.DilatedFCN",
    "segframe.heads.fcn.FCN": "segframe.models.heads.FCN",
    "segframe.heads.segnet.SegNet": "segframe.models.heads.SegNet",
    "segframe.heads.summed.SummedScores": "segframe.models.heads.DeepLabV2",
    "segframe.heads.unet.UNet": "segframe.models.heads.UNet",
    "segframe.inference.crf.DenseCRF": "segframe.inference.DenseCRF",
    "segframe.inference.shift_and_stitch.ShiftAndStitch": "segframe.inference.ShiftAndStitch",
    "segframe.inference.sliding_window.SlidingWindow": "segframe.inference.SlidingWindow",
    "segframe.inference.tta.TTA": "segframe.inference.TTA",
    "segframe.inference.whole.Whole": "segframe.inference.WholeImage",
    "segframe.loggers.CSV": "segframe.training.CSVLogger",
    "segframe.loggers.TensorBoard": "segframe.training.TensorBoard",
    "segframe.losses.coarse.OnCoarseGrid": "segframe.models.losses.CoarseLabels",
    "segframe.losses.combined.Combined": "segframe.models.losses.WeightedSum",
    "segframe.losses.cross_entropy.CrossEntropy": "segframe.models.losses.CrossEntropy",
    "segframe.losses.dice.Dice": "segframe.models.losses.Dice",
    "segframe.schedulers.constant": "segframe.training.constant_lr",
    "segframe.schedulers.cosine": "segframe.training.cosine_lr",
    "segframe.schedulers.poly": "segframe.training.poly_lr",
    "segframe.schedulers.step": "segframe.training.step_lr",
    "segframe.sweep.SweepTable": "segframe.cli.SweepTable",
}


def rename_targets(node: Any) -> Any:
    """The same plain containers, with each old `_target_` replaced by today's name."""
    if isinstance(node, dict):
        renamed = {key: rename_targets(child) for key, child in node.items()}
        target = renamed.get("_target_")
        if isinstance(target, str):
            renamed["_target_"] = RENAMED.get(target, target)
        return renamed
    return [rename_targets(child) for child in node] if isinstance(node, list) else node
