"""Computes the step again at which a run's loss was not finite: which image, which layer, in which precision."""

from pathlib import Path

from omegaconf import DictConfig

from segframe.checks import check_keys
from segframe.cli import command, importing
from segframe.config import ReplayConfig


@command("replay")
def main(config: DictConfig) -> None:
    """One forward and backward pass over the batch in diverged.pt."""
    # Imported here, so that --help needs no torch.
    from hydra.core.hydra_config import HydraConfig

    with importing():
        from segframe import replay, trouble
        from segframe.inference import building
        from segframe.tables import plain_table, print_table
        from segframe.visuals import save_png

    check_keys(config, ReplayConfig)
    path = replay.locate(Path(config.checkpoint))
    sick = replay.read(path)
    device = building.pick_device(config.accelerator)
    with trouble.named(less="accelerator=cpu has more of it"):
        found = replay.replay(sick, device, config.precision)
    rates = ", ".join(f"{part} {rate:g}" for part, rate in sick.step.rates.items())
    precision = config.precision or sick.config["trainer"]["precision"]
    print(f"step {sick.step.number}, learning rate {rates}: the loss was {sick.value}")
    print(f"computed again on {device}, {precision}: {found.loss:g}, norm of the gradient {found.gradient:g}")
    rows = [
        {"image": i.name, "loss": f"{i.loss:.4g}", "void %": f"{100 * i.void:.1f}", "first not finite": i.broken or "-"}
        for i in found.images
    ]
    print_table(plain_table(rows, str(path)))
    print(replay.verdict(sick, found))
    folder = Path(HydraConfig.get().runtime.output_dir)
    for k, name in enumerate(sick.step.batch["name"]):
        save_png(folder / f"{k:02}_{Path(name).stem}.png", replay.picture(sick, k))
    print(f"images and masks as the network got them: {folder}")


if __name__ == "__main__":
    main()
