"""Computes the step again at which a run's loss was not finite: which image, which layer, in which precision."""

from pathlib import Path

from omegaconf import DictConfig

from segframe.cli.main import command, importing
from segframe.config.schema import ReplayConfig
from segframe.config.validate import check_keys
from segframe.errors import translate_errors


@command("replay")
def main(config: DictConfig) -> None:
    """One forward and backward pass over the batch in diverged.pt."""
    # Imported here, so that --help needs no torch.
    from hydra.core.hydra_config import HydraConfig

    with importing():
        from segframe.analysis import replay_divergence
        from segframe.inference import build
        from segframe.visualization.overlays import save_png
        from segframe.visualization.tables import plain_table, print_table

    check_keys(config, ReplayConfig)
    path = replay_divergence.locate(Path(config.checkpoint))
    step_data = replay_divergence.read(path)
    device = build.pick_device(config.accelerator)
    with translate_errors(less="accelerator=cpu has more of it"):
        found = replay_divergence.replay(step_data, device, config.precision)
    rates = ", ".join(f"{part} {rate:g}" for part, rate in step_data.step.rates.items())
    precision = config.precision or step_data.config["trainer"]["precision"]
    print(f"step {step_data.step.number}, learning rate {rates}: the loss was {step_data.value}")
    print(f"computed again on {device}, {precision}: {found.loss:g}, norm of the gradient {found.gradient:g}")
    rows = [
        {"image": i.name, "loss": f"{i.loss:.4g}", "void %": f"{100 * i.void:.1f}", "first not finite": i.broken or "-"}
        for i in found.images
    ]
    print_table(plain_table(rows, str(path)))
    print(replay_divergence.verdict(step_data, found))
    folder = Path(HydraConfig.get().runtime.output_dir)
    for k, name in enumerate(step_data.step.batch["name"]):
        save_png(folder / f"{k:02}_{Path(name).stem}.png", replay_divergence.picture(step_data, k))
    print(f"images and masks as the network got them: {folder}")


if __name__ == "__main__":
    main()
